//! One WebSocket: hello, hints, pings, and the token's end.
//!
//! The session holds at most one unsent hint: a slot with the newest head. It
//! never reads rows. The only module that knows actix-web-actors.

use super::bucket::Bucket;
use super::flow::{Outflow, PATIENCE, inflow};
use super::hub::{Saying, say};
use super::members::MemberId;
use super::notifier::{JoinSession, Leave, Notifier};
use super::slot::HintSlot;
use crate::auth::{Authenticator, Identity, Revoked};
use crate::clock::Clock;
use crate::meters::{self, Counted};
use crate::rates::Places;
use crate::service::SyncService;
use actix::prelude::*;
use actix_web::{HttpRequest, HttpResponse, web};
use actix_web_actors::ws;
use oversync_shared::ServerId;
use oversync_shared::wire::{
    ByeReason, ClientMessage, ServerMessage, WS_MAX_CLIENT_FRAME, WS_SUBPROTOCOL,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A device that has let so many pings pass without a sign of life is gone.
const MISSES: u8 = 2;

/// How long a device that is let go should stay away.
const AWAY_MS: u64 = 2_000;

/// Messages from the notifier that may wait; each is only a wake.
const MAX_WAITING: usize = 16;

/// Messages to a session. They carry nothing: the head is in the slot, and so is
/// the server's end; who is revoked is in a list. Both are looked at with each.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(super) enum ToSession {
    /// There is a head to be told.
    Say,
    /// There is none.
    Look,
}

/// A connected device.
pub struct Session {
    identity: Identity,
    _places: Places,
    epoch: Arc<str>,
    notifier: Addr<Notifier>,
    auth: Arc<dyn Authenticator>,
    revoked: Revoked,
    clock: Clock,
    slot: Arc<HintSlot>,
    member: Option<MemberId>,
    told: Option<ServerId>,
    /// How often it is pinged.
    ping: Duration,
    /// Pings since it was heard last.
    unheard: u8,
    expiry: Option<SpawnHandle>,
    outflow: Outflow,
    inflow: Bucket,
    /// Whether it is being watched as a slow consumer.
    is_watched: bool,
    /// While hints wait for it.
    stalled: Option<Counted>,
}

impl Session {
    /// A session for a device that has authenticated.
    pub(crate) fn new(identity: Identity, places: Places, service: &SyncService) -> Self {
        Self {
            identity,
            _places: places,
            epoch: service.epoch(),
            notifier: service.notifier().clone(),
            auth: service.auth().clone(),
            revoked: service.revoked().clone(),
            clock: service.clock().clone(),
            slot: Arc::default(),
            member: None,
            told: None,
            ping: Duration::from_secs(service.limits().ping_seconds),
            unheard: 0,
            expiry: None,
            outflow: Outflow::default(),
            inflow: inflow(Instant::now()),
            is_watched: false,
            stalled: None,
        }
    }

    /// Answers the upgrade and runs the session until the socket closes.
    pub fn start_on(
        self,
        request: &HttpRequest,
        stream: web::Payload,
    ) -> Result<HttpResponse, actix_web::Error> {
        ws::WsResponseBuilder::new(self, request, stream)
            .protocols(&[WS_SUBPROTOCOL])
            .frame_size(WS_MAX_CLIENT_FRAME)
            .start()
    }

    fn send(&mut self, message: &ServerMessage, ctx: &mut ws::WebsocketContext<Self>) {
        let text = serde_json::to_string(message).expect("BUG: messages serialise");
        let bytes = text.len();
        ctx.text(text);
        self.sent(bytes, ctx);
    }

    fn sent(&mut self, bytes: usize, ctx: &mut ws::WebsocketContext<Self>) {
        if let Some(probe) = self.outflow.sent(bytes) {
            ctx.ping(&probe.payload());
        }
        if self.outflow.is_full() {
            self.stalled.get_or_insert_with(meters::stalled);
            self.watch_slowness(ctx);
        }
    }

    /// Says `bye` to a device that reads nothing of what waits for it.
    fn watch_slowness(&mut self, ctx: &mut ws::WebsocketContext<Self>) {
        if self.is_watched {
            return;
        }
        self.is_watched = true;
        let oldest = self.outflow.oldest();
        ctx.run_later(PATIENCE, move |session, ctx| {
            session.is_watched = false;
            if !session.outflow.is_full() {
                return;
            }
            if session.outflow.oldest() == oldest {
                tracing::info!(device = %session.identity.device, "a slow consumer is let go");
                session.bye(ByeReason::SlowConsumer, AWAY_MS, ctx);
            } else {
                session.watch_slowness(ctx);
            }
        });
    }

    fn bye(
        &mut self,
        reason: ByeReason,
        retry_after_ms: u64,
        ctx: &mut ws::WebsocketContext<Self>,
    ) {
        meters::bye(reason);
        self.send(
            &ServerMessage::Bye {
                reason,
                retry_after_ms,
            },
            ctx,
        );
        ctx.close(Some(ws::CloseReason {
            code: ws::CloseCode::Normal,
            description: None,
        }));
        ctx.stop();
    }

    /// Says `bye` when the token ends, unless a fresh one comes before.
    fn watch_expiry(&mut self, ctx: &mut ws::WebsocketContext<Self>) {
        if let Some(earlier) = self.expiry.take() {
            ctx.cancel_future(earlier);
        }
        let Some(end) = self.identity.expires_at else {
            return;
        };
        let left = end - self.clock.now();
        let left = Duration::try_from(left).unwrap_or(Duration::ZERO);
        self.expiry = Some(ctx.run_later(left, |session, ctx| {
            session.bye(ByeReason::TokenExpired, 0, ctx)
        }));
    }

    /// The newest head, unless it waits in its slot for a slow device.
    fn say_head(&mut self, ctx: &mut ws::WebsocketContext<Self>) {
        let message = match say(self.told, self.slot.head(), self.outflow.is_full()) {
            None => {
                if !self.outflow.is_full() {
                    // All of it was in the last hint: the next one's time begins anew.
                    self.slot.told();
                }
                return meters::hint_coalesced();
            }
            Some(Saying::Hello(head)) => {
                self.told = Some(head);
                self.slot.told();
                ServerMessage::Hello {
                    epoch: self.epoch.to_string(),
                    head,
                }
            }
            Some(Saying::Changes(after, head)) => {
                meters::hint(self.slot.told());
                self.told = Some(head);
                ServerMessage::Changes { after, head }
            }
        };
        self.send(&message, ctx);
    }

    fn take_token(&mut self, token: String, ctx: &mut ws::WebsocketContext<Self>) {
        let auth = self.auth.clone();
        let check = async move { auth.authenticate(&token).await };
        ctx.spawn(check.into_actor(self).map(|fresh, session, ctx| match fresh {
            Ok(fresh) if fresh.user == session.identity.user && fresh.device == session.identity.device => {
                session.identity = fresh;
                session.watch_expiry(ctx);
            }
            // The old token goes on to its end.
            Ok(_) | Err(_) => tracing::info!(device = %session.identity.device, "a fresh token was refused"),
        }));
    }
}

impl Actor for Session {
    type Context = ws::WebsocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        meters::session_opened();
        ctx.set_mailbox_capacity(MAX_WAITING);
        self.watch_expiry(ctx);
        ctx.run_interval(self.ping, |session, ctx| {
            if session.unheard >= MISSES {
                tracing::info!(device = %session.identity.device, "a silent device is let go");
                ctx.stop();
            } else {
                session.unheard += 1;
                ctx.ping(b"");
            }
        });
        let join = JoinSession {
            user: self.identity.user.clone(),
            device: self.identity.device.clone(),
            slot: self.slot.clone(),
            address: ctx.address(),
        };
        let joined = self
            .notifier
            .send(join)
            .into_actor(self)
            .map(|member, session, ctx| match member {
                Ok(member) => session.member = Some(member),
                Err(_) => session.bye(ByeReason::ShuttingDown, AWAY_MS, ctx),
            });
        ctx.spawn(joined);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        meters::session_closed();
        if let Some(member) = self.member {
            // When its mailbox is full, the notifier's sweep finds out.
            let _ = self.notifier.try_send(Leave(member));
        }
    }
}

impl Handler<ToSession> for Session {
    type Result = ();

    fn handle(&mut self, message: ToSession, ctx: &mut Self::Context) {
        let Identity { user, device, .. } = &self.identity;
        if self.revoked.contains(user, device) {
            self.bye(ByeReason::Revoked, 0, ctx);
            return;
        }
        if let Some(away) = self.slot.goodbye() {
            self.bye(ByeReason::ShuttingDown, away, ctx);
            return;
        }
        match message {
            ToSession::Look => {}
            ToSession::Say => self.say_head(ctx),
        }
    }
}

impl StreamHandler<Result<ws::Message, ws::ProtocolError>> for Session {
    fn handle(&mut self, message: Result<ws::Message, ws::ProtocolError>, ctx: &mut Self::Context) {
        self.unheard = 0;
        if !self.inflow.takes(Instant::now()) {
            tracing::info!(device = %self.identity.device, "too many frames");
            ctx.close(Some(ws::CloseCode::Policy.into()));
            ctx.stop();
            return;
        }
        match message {
            // The answer may be left out (RFC 6455, 5.5.3: only the latest needs one).
            Ok(ws::Message::Ping(_)) if self.outflow.is_full() => {}
            Ok(ws::Message::Ping(bytes)) => {
                ctx.pong(&bytes);
                self.sent(bytes.len(), ctx);
            }
            Ok(ws::Message::Pong(bytes)) => {
                let was_full = self.outflow.is_full();
                self.outflow.pong(&bytes);
                if !self.outflow.is_full() {
                    self.stalled = None;
                }
                if was_full && self.told.is_some() {
                    self.say_head(ctx);
                }
            }
            Ok(ws::Message::Text(text)) => {
                // What is not understood is for a later version.
                if let Ok(ClientMessage::Token { token }) = serde_json::from_str(&text) {
                    self.take_token(token, ctx);
                }
            }
            Ok(ws::Message::Close(reason)) => {
                ctx.close(reason);
                ctx.stop();
            }
            Ok(ws::Message::Binary(_) | ws::Message::Continuation(_) | ws::Message::Nop) => {}
            Err(ws::ProtocolError::Overflow) => {
                ctx.close(Some(ws::CloseCode::Size.into()));
                ctx.stop();
            }
            Err(_) => ctx.stop(),
        }
    }
}
