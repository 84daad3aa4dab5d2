//! Fuzzing on stable Rust: inputs made from a seed, real code, real invariants.
//!
//! A target makes the input of a case from the case's own generator and says what
//! must hold for it. Cases run until the budget is used up; what fails is made
//! smaller and shown with the command that replays it.
//!
//! ```text
//! cargo run -p oversync-tests --bin fuzz -- scanner --seconds 30 --seed 7
//! ```

mod body;
pub mod bytes;
pub mod json;
mod query;
mod scanner;
mod token;
mod upload;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// How long a failing input is made smaller.
const SHRINK_TIME: Duration = Duration::from_secs(10);

/// Something to be fuzzed.
pub trait Target {
    /// The input of a case.
    fn input(&mut self, rng: &mut StdRng) -> Vec<u8>;

    /// What must hold for an input; the error says what does not. A panic is a
    /// failure too.
    fn check(&mut self, case: u64, input: &[u8]) -> Result<(), String>;

    /// What must hold when all cases are done.
    fn finish(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// The targets by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// The JSON scanner that judges payloads.
    Scanner,
    /// Upload bodies, read and applied by the service in this process.
    Upload,
    /// Upload bodies, sent to a server process.
    UploadHttp,
    /// Download queries, by the routes in this process.
    Query,
    /// Tokens.
    Token,
}

impl Name {
    /// As on the command line.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Scanner => "scanner",
            Self::Upload => "upload",
            Self::UploadHttp => "upload-http",
            Self::Query => "query",
            Self::Token => "token",
        }
    }

    fn target(self) -> Box<dyn Target> {
        match self {
            Self::Scanner => Box::new(scanner::Scanner),
            Self::Upload => Box::new(upload::InProcess::start()),
            Self::UploadHttp => Box::new(upload::OverHttp::start()),
            Self::Query => Box::new(query::Query::start()),
            Self::Token => Box::new(token::Token::new()),
        }
    }
}

/// Which cases are run.
#[derive(Debug, Clone, Copy)]
pub struct Campaign {
    /// Makes every case.
    pub seed: u64,
    /// Only this one.
    pub case: Option<u64>,
    /// No new case is begun after this time.
    pub budget: Duration,
}

/// Runs a target.
///
/// # Errors
/// What failed: the case, why, the smallest input found, how to see it again.
pub fn run(name: Name, campaign: Campaign) -> Result<u64, String> {
    let mut target = name.target();
    let started = Instant::now();
    let mut played = 0;
    let cases = campaign.case.map_or(0..u64::MAX, |case| case..case + 1);
    for case in cases {
        if campaign.case.is_none() && started.elapsed() >= campaign.budget {
            break;
        }
        let input = target.input(&mut generator(campaign.seed, case));
        if let Err(why) = guarded(&mut *target, case, &input) {
            let (input, why) = shrink(&mut *target, case, input, why);
            return Err(report(name, campaign.seed, case, &input, &why));
        }
        played += 1;
    }
    let finished = catch_unwind(AssertUnwindSafe(|| target.finish()));
    finished.unwrap_or_else(|panic| Err(text_of(&*panic)))?;
    Ok(played)
}

/// Each case has its own, so that one can be replayed alone.
fn generator(seed: u64, case: u64) -> StdRng {
    StdRng::seed_from_u64(
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(case.wrapping_mul(0xd6e8_feb8_6659_fd93)),
    )
}

fn guarded(target: &mut dyn Target, case: u64, input: &[u8]) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| target.check(case, input)))
        .unwrap_or_else(|panic| Err(format!("panic: {}", text_of(&*panic))))
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without text")
        .to_owned()
}

/// Leaves out pieces, from large to small, as long as something still fails.
fn shrink(
    target: &mut dyn Target,
    case: u64,
    mut input: Vec<u8>,
    mut why: String,
) -> (Vec<u8>, String) {
    let started = Instant::now();
    let mut piece = input.len().div_ceil(2);
    while piece > 0 {
        let mut at = 0;
        while at < input.len() {
            if started.elapsed() > SHRINK_TIME {
                return (input, why);
            }
            let mut smaller = input.clone();
            smaller.drain(at..(at + piece).min(input.len()));
            match guarded(target, case, &smaller) {
                Err(reason) => (input, why) = (smaller, reason),
                Ok(()) => at += piece,
            }
        }
        piece /= 2;
    }
    (input, why)
}

fn report(name: Name, seed: u64, case: u64, input: &[u8], why: &str) -> String {
    let mut text = format!("{}: case {case} of seed {seed}: {why}\n", name.text());
    let shown = input.escape_ascii();
    let _ = writeln!(text, "smallest input, {} bytes: b\"{shown}\"", input.len());
    let _ = write!(
        text,
        "replay: cargo run -p oversync-tests --bin fuzz -- {} --seed {seed} --case {case}",
        name.text()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoDoubleX;

    impl Target for NoDoubleX {
        fn input(&mut self, _: &mut StdRng) -> Vec<u8> {
            Vec::new()
        }

        fn check(&mut self, _: u64, input: &[u8]) -> Result<(), String> {
            assert!(!input.windows(2).any(|pair| pair == b"xx"), "two of them");
            Ok(())
        }
    }

    #[test]
    fn a_failing_input_is_made_as_small_as_can_be() {
        let input = b"a long text with xx in the middle of it".to_vec();
        let (smallest, why) = shrink(&mut NoDoubleX, 0, input, "first".into());
        assert_eq!(
            (smallest.as_slice(), why.as_str()),
            (&b"xx"[..], "panic: two of them")
        );
    }

    #[test]
    fn a_case_is_the_same_every_time() {
        let input = |case| scanner::Scanner.input(&mut generator(3, case));
        assert_eq!(input(5), input(5));
        assert_ne!(input(5), input(6));
    }
}
