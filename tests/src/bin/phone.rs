//! A device process that plays a story and may kill itself at a named step: the
//! trace events of the client, which anybody may listen to, are counted, and at
//! the one that was named the process is gone as by `kill -9`.
//!
//! Lived to the end, it prints how often it has passed each step.

use clap::Parser;
use oversqlite::Step;
use oversync_tests::Target;
use oversync_tests::server::SECRET;
use oversync_tests::story::play::{Ear, Player};
use oversync_tests::story::{DEVICE, Story};
use rustix::process::{Signal, getpid, kill_process};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    file: PathBuf,
    #[arg(long)]
    user: String,
    #[arg(long, default_value = DEVICE)]
    device: String,
    #[arg(long)]
    story: String,
    /// The first server, the second as the client sees it, the second.
    #[arg(long, num_args = 3)]
    servers: Vec<String>,
    /// `step:n`: die when the step is reached for the n-th time.
    #[arg(long)]
    kill: Option<String>,
}

/// Hears the steps.
struct Steps {
    counts: Arc<Mutex<BTreeMap<String, usize>>>,
    ear: Arc<Ear>,
    kill: Option<(String, usize)>,
}

/// Finds the field `step`.
struct Name(String);

impl Visit for Name {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "step" {
            self.0 = value.to_owned();
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

impl<S: Subscriber> Layer<S> for Steps {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut name = Name(String::new());
        event.record(&mut name);
        self.ear.hear(&name.0);
        let count = {
            let mut counts = self.counts.lock().expect("no panic");
            let count = counts.entry(name.0.clone()).or_default();
            *count += 1;
            *count
        };
        if self.kill.as_ref() == Some(&(name.0, count)) {
            kill_process(getpid(), Signal::KILL).expect("a process may kill itself");
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments = Arguments::parse();
    let kill = arguments.kill.map(|kill| {
        let (step, count) = kill.split_once(':').expect("step:n");
        (step.to_owned(), count.parse().expect("a number"))
    });
    let (counts, ear) = (Arc::default(), Arc::<Ear>::default());
    let steps = Steps {
        counts: Arc::clone(&counts),
        ear: Arc::clone(&ear),
        kill,
    };
    let only = Targets::new().with_target(Step::TARGET, LevelFilter::TRACE);
    tracing_subscriber::registry()
        .with(steps.with_filter(only))
        .init();
    let servers: Vec<Target> = arguments
        .servers
        .iter()
        .map(|base| Target::new(base, SECRET))
        .collect();
    let servers = servers.try_into().expect("three addresses");
    let story = Story::named(&arguments.story);
    let who = (arguments.user, arguments.device);
    let mut player = Player::new(story, arguments.file, who, servers, ear);
    player.play().await;
    for (step, count) in counts.lock().expect("no panic").iter() {
        println!("{step} {count}");
    }
}
