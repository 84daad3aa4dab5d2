//! Tokens that end while a device is connected: the next one goes over the open
//! socket; a provider that has none stops nothing but the connection.

use oversqlite::{ConnectionState, TokenError, TokenFuture, TokenProvider};
use oversync_tests::proxy::{Proxy, Verdict};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{App, Backend, Config, Server, Target, eventually, on_both_stores, within};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

on_both_stores!(
    a_socket_outlives_several_tokens,
    without_a_token_local_work_goes_on
);

/// How long a token is good: whole seconds, so a little less. What is left when the next
/// one is asked for must do on a busy machine.
const LIFE: Duration = Duration::from_secs(16);

/// A sign-in that gives short tokens, or none.
#[derive(Clone)]
struct SignIn {
    target: Target,
    user: String,
    gives: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    /// Questions that have begun and not ended.
    at_once: Arc<AtomicUsize>,
    most_at_once: Arc<AtomicUsize>,
}

impl SignIn {
    fn new(target: &Target, user: &str) -> Self {
        Self {
            target: target.clone(),
            user: user.to_owned(),
            gives: Arc::new(AtomicBool::new(true)),
            asked: Arc::default(),
            at_once: Arc::default(),
            most_at_once: Arc::default(),
        }
    }
}

impl TokenProvider for SignIn {
    fn token(&self) -> TokenFuture {
        let this = self.clone();
        Box::pin(async move {
            this.asked.fetch_add(1, Ordering::SeqCst);
            let now = this.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            this.most_at_once.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(200)).await;
            this.at_once.fetch_sub(1, Ordering::SeqCst);
            match this.gives.load(Ordering::SeqCst) {
                true => Ok(this.target.token(&this.user, "bob", LIFE)),
                false => Err(TokenError::new("signed out")),
            }
        })
    }
}

async fn online(app: &App) {
    within(Duration::from_secs(30), "the device is online", || async {
        let status = app.client.status().await.expect("a status");
        (status.connection == ConnectionState::Online && status.hydrated).then_some(())
    })
    .await;
}

async fn arrives(from: &App, to: &App) {
    let key = fresh_key();
    from.add(&key, "Ann");
    eventually("the row arrives", || async {
        to.people().iter().any(|(id, _)| *id == key).then_some(())
    })
    .await;
}

async fn a_socket_outlives_several_tokens(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default()).await;
    let proxy = Proxy::start(server.address(), |_| Verdict::Pass).await;
    let behind = Target::new(proxy.base(), server.target().secret());
    let user = fresh_user();
    let ada = App::start(&server.target(), &user, "ada").await;
    let sign_in = SignIn::new(&server.target(), &user);
    let bob = App::open_as(&behind, &user, "bob", sign_in.clone()).await;
    bob.client.start().expect("the engine starts");
    online(&bob).await;
    let mut status = bob.client.status_stream();
    status.mark_unchanged();
    let watched = tokio::spawn(async move {
        let mut seen = Vec::new();
        while status.changed().await.is_ok() {
            seen.push(status.borrow_and_update().connection);
        }
        seen
    });
    let start = Instant::now();
    while start.elapsed() < 2 * LIFE {
        arrives(&ada, &bob).await;
        arrives(&bob, &ada).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(proxy.seen("/sync/ws").len(), 1, "one socket all the time");
    let passes = proxy.seen("include_self=true").len();
    assert_eq!(passes, 1, "one first pass, and no other");
    let asked = sign_in.asked.load(Ordering::SeqCst);
    assert!(
        (3..=8).contains(&asked),
        "one token after the other: {asked}"
    );
    assert_eq!(sign_in.most_at_once.load(Ordering::SeqCst), 1);
    bob.client.stop().await;
    drop(bob);
    let seen = watched.await.expect("it ends with the client");
    let (last, before) = seen.split_last().expect("the status has changed");
    assert_eq!(*last, ConnectionState::Stopped);
    assert!(
        before.iter().all(|state| *state == ConnectionState::Online),
        "never away: {before:?}"
    );
}

async fn without_a_token_local_work_goes_on(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default()).await;
    let user = fresh_user();
    let ada = App::start(&server.target(), &user, "ada").await;
    let sign_in = SignIn::new(&server.target(), &user);
    let bob = App::open_as(&server.target(), &user, "bob", sign_in.clone()).await;
    bob.client.start().expect("the engine starts");
    online(&bob).await;
    sign_in.gives.store(false, Ordering::SeqCst);
    // The last token is used for as long as it is good.
    arrives(&bob, &ada).await;
    eventually("its token has ended", || async {
        let status = bob.client.status().await.expect("a status");
        (status.connection != ConnectionState::Online).then_some(())
    })
    .await;
    for n in 0..20 {
        bob.add(&fresh_key(), &format!("without a token {n}"));
    }
    eventually("the status says why", || async {
        let status = bob.client.status().await.expect("a status");
        let why = status.stalled_reason.unwrap_or_default();
        (status.unsent == 20 && why == "no token: signed out").then_some(())
    })
    .await;
    assert!(bob.client.rejected().await.expect("a list").is_empty());
    sign_in.gives.store(true, Ordering::SeqCst);
    eventually("everything arrives", || async {
        (ada.people().len() == 21).then_some(())
    })
    .await;
    online(&bob).await;
    assert_eq!(sign_in.most_at_once.load(Ordering::SeqCst), 1);
}
