//! Who is connected to this process, for operators who ask.

use super::notifier::Notifier;
use actix::prelude::*;
use oversync_shared::{DeviceId, UserId};
use std::collections::HashMap;

/// Asks who is connected: counts, and a page of users by name.
#[derive(Debug, Message)]
#[rtype(result = "Connected")]
pub struct WhoIsConnected {
    /// Users after this one.
    pub after: Option<UserId>,
    /// At most so many.
    pub limit: usize,
}

/// Asks which devices of a user have a session, and with how many.
#[derive(Debug, Message)]
#[rtype(result = "HashMap<DeviceId, usize>")]
pub struct WhichDevices {
    /// Whose.
    pub user: UserId,
}

/// Who is connected to this process.
#[derive(Debug, Clone, Default, PartialEq, Eq, MessageResponse)]
pub struct Connected {
    /// WebSocket sessions.
    pub sessions: usize,
    /// Long polls that wait.
    pub polls: usize,
    /// Users that have one or the other.
    pub users: usize,
    /// A page of them, by name.
    pub page: Vec<(UserId, Places)>,
    /// Whether there are more after these.
    pub has_more: bool,
}

/// What one user has open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Places {
    /// WebSocket sessions.
    pub sessions: usize,
    /// Long polls that wait.
    pub polls: usize,
}

/// How somebody is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Session,
    Poll,
}

impl Connected {
    /// Counts members.
    pub(super) fn count<'a>(
        members: impl Iterator<Item = (&'a UserId, By)>,
        asked: &WhoIsConnected,
    ) -> Self {
        let mut found = Self::default();
        let mut users: HashMap<&UserId, Places> = HashMap::new();
        for (user, by) in members {
            let places = users.entry(user).or_default();
            let (all, own) = match by {
                By::Session => (&mut found.sessions, &mut places.sessions),
                By::Poll => (&mut found.polls, &mut places.polls),
            };
            *all += 1;
            *own += 1;
        }
        found.users = users.len();
        let is_wanted = |user: &UserId| asked.after.as_ref().is_none_or(|after| user > after);
        let mut page: Vec<_> = users.into_iter().filter(|(u, _)| is_wanted(u)).collect();
        found.has_more = page.len() > asked.limit;
        if found.has_more {
            // The rest need not be in order.
            page.select_nth_unstable_by_key(asked.limit, |(user, _)| *user);
            page.truncate(asked.limit);
        }
        page.sort_unstable_by_key(|(user, _)| *user);
        let own = page.into_iter();
        found.page = own.map(|(user, places)| (user.clone(), places)).collect();
        found
    }
}

impl Handler<WhoIsConnected> for Notifier {
    type Result = Connected;

    fn handle(&mut self, asked: WhoIsConnected, _: &mut Self::Context) -> Connected {
        Connected::count(self.connected(), &asked)
    }
}

impl Handler<WhichDevices> for Notifier {
    type Result = MessageResult<WhichDevices>;

    fn handle(&mut self, asked: WhichDevices, _: &mut Self::Context) -> Self::Result {
        let mut devices = HashMap::new();
        for device in self.sessions_of(&asked.user) {
            *devices.entry(device.clone()).or_default() += 1;
        }
        MessageResult(devices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_counted_and_told_by_name() {
        let names = ["d", "b", "a", "c", "b"].map(|name| UserId::new(name).expect("a name"));
        let members = || {
            let how = [By::Session, By::Session, By::Poll, By::Session, By::Poll];
            names.iter().zip(how)
        };
        let ask = |after: Option<&str>, limit| {
            let after = after.map(|name| UserId::new(name).expect("a name"));
            Connected::count(members(), &WhoIsConnected { after, limit })
        };
        let all = ask(None, 9);
        assert_eq!((all.sessions, all.polls, all.users), (3, 2, 4));
        let names = |found: &Connected| -> Vec<String> {
            found
                .page
                .iter()
                .map(|(user, _)| user.to_string())
                .collect()
        };
        assert_eq!(
            (names(&all), all.has_more),
            (own(&["a", "b", "c", "d"]), false)
        );
        let b = Places {
            sessions: 1,
            polls: 1,
        };
        assert_eq!(all.page[1].1, b);
        let first = ask(None, 2);
        assert_eq!((names(&first), first.has_more), (own(&["a", "b"]), true));
        let rest = ask(Some("b"), 2);
        assert_eq!((names(&rest), rest.has_more), (own(&["c", "d"]), false));
    }

    fn own(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }
}
