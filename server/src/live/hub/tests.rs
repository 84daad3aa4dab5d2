//! Every order in which commits, announcements, joins, readings, wakes and leaves of
//! two sessions can happen: no commit is ever lost between them. And mutants of the
//! hub, of its shell and of a session, which must all be caught.

use super::*;
use std::collections::HashSet;

fn user() -> UserId {
    UserId::new("u").expect("valid")
}

fn id(n: i64) -> ServerId {
    ServerId::new(n)
}

/// What is wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    /// Nothing.
    None,
    /// The head is read first, and the session joins afterwards.
    ReadsBeforeJoining,
    /// What was announced while the head was read does not count.
    ForgetsWhatWasAnnounced,
    /// Announcements before the first hello are not noted.
    NotesNothingBeforeHello,
    /// An older announcement that comes late is told.
    TellsOfOlderHeads,
    /// An older announcement that comes late lowers what is announced.
    LowersTheHead,
    /// Only one of the members is told.
    TellsOneMember,
    /// Who leaves takes the others along.
    LeavesWithTheOthers,
    /// A session joins as one that has been told.
    JoinsAsGreeted,
    /// A second joining of another session resets the first.
    ForgetsOthersAtJoin,
    /// A session that could not speak when it was woken is not woken again.
    DropsTheWakeWhenFull,
    /// A session speaks of the newest head as if it had told of all before it.
    SkipsBetween,
}

const MUTANTS: [Mutant; 11] = [
    Mutant::ReadsBeforeJoining,
    Mutant::ForgetsWhatWasAnnounced,
    Mutant::NotesNothingBeforeHello,
    Mutant::TellsOfOlderHeads,
    Mutant::LowersTheHead,
    Mutant::TellsOneMember,
    Mutant::LeavesWithTheOthers,
    Mutant::JoinsAsGreeted,
    Mutant::ForgetsOthersAtJoin,
    Mutant::DropsTheWakeWhenFull,
    Mutant::SkipsBetween,
];

/// How far a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    Away,
    Joined,
    /// Its head is read and on its way.
    Read(ServerId),
    Connected,
    Left,
}

/// A session and its device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Session {
    stage: Stage,
    slot: ServerId,
    is_woken: bool,
    is_full: bool,
    may_fill: bool,
    told: Option<ServerId>,
}

/// The whole of it.
#[derive(Debug, Clone)]
struct World {
    hub: Hub<usize>,
    head: ServerId,
    commits_left: u8,
    /// Committed, and not yet announced.
    on_their_way: Vec<ServerId>,
    losses_left: u8,
    /// The net below: a reading of the head that is on its way.
    reread: Option<ServerId>,
    sessions: [Session; 2],
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Commit,
    Announce(usize),
    Lose(usize),
    Reread,
    DeliverReread,
    Join(usize),
    Read(usize),
    Deliver(usize),
    Wake(usize),
    Fill(usize),
    Drain(usize),
    Leave(usize),
}

type Key = (
    ServerId,
    Vec<ServerId>,
    [u8; 2],
    Option<ServerId>,
    [Session; 2],
    Option<(ServerId, Vec<(usize, Option<ServerId>)>)>,
);

impl World {
    fn new(commits: u8, losses: u8) -> Self {
        let session = Session {
            stage: Stage::Away,
            slot: ServerId::ZERO,
            is_woken: false,
            is_full: false,
            may_fill: true,
            told: None,
        };
        Self {
            hub: Hub::default(),
            head: ServerId::ZERO,
            commits_left: commits,
            on_their_way: Vec::new(),
            losses_left: losses,
            reread: None,
            sessions: [session.clone(), session],
        }
    }

    /// What tells two states apart.
    fn key(&self) -> Key {
        let audience = self.hub.audiences.get(&user()).map(|audience| {
            let mut members: Vec<(usize, Option<ServerId>)> = audience
                .members
                .iter()
                .map(|(member, told)| match told {
                    Told::Nothing => (*member, None),
                    Told::UpTo(head) => (*member, Some(*head)),
                })
                .collect();
            members.sort();
            (audience.announced, members)
        });
        let left = [self.commits_left, self.losses_left];
        let sessions = self.sessions.clone();
        let on_their_way = self.on_their_way.clone();
        (
            self.head,
            on_their_way,
            left,
            self.reread,
            sessions,
            audience,
        )
    }

    fn steps(&self, mutant: Mutant) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.commits_left > 0 {
            steps.push(Step::Commit);
        }
        for index in 0..self.on_their_way.len() {
            steps.push(Step::Announce(index));
            if self.losses_left > 0 {
                steps.push(Step::Lose(index));
            }
        }
        match self.reread {
            Some(_) => steps.push(Step::DeliverReread),
            // When it can make a difference; it comes again and again.
            None if self.is_behind() => steps.push(Step::Reread),
            None => {}
        }
        for (n, session) in self.sessions.iter().enumerate() {
            match session.stage {
                Stage::Away if mutant == Mutant::ReadsBeforeJoining => steps.push(Step::Read(n)),
                Stage::Away => steps.push(Step::Join(n)),
                Stage::Joined => steps.push(Step::Read(n)),
                Stage::Read(_) => steps.push(Step::Deliver(n)),
                Stage::Connected => steps.push(Step::Leave(n)),
                Stage::Left => {}
            }
            if session.is_woken {
                steps.push(Step::Wake(n));
            }
            match (session.is_full, session.may_fill && session.told.is_some()) {
                (true, _) => steps.push(Step::Drain(n)),
                (false, true) => steps.push(Step::Fill(n)),
                (false, false) => {}
            }
        }
        steps
    }

    /// Whether a connected session does not know of the head and nothing that is on
    /// its way will tell it: only then the net is needed.
    fn is_behind(&self) -> bool {
        let is_lost = self.losses_left == 0 && self.on_their_way.is_empty();
        is_lost
            && self
                .sessions
                .iter()
                .any(|session| session.stage == Stage::Connected && session.slot < self.head)
    }

    fn take(&mut self, step: Step, mutant: Mutant) -> Result<(), String> {
        let actions = match step {
            Step::Commit => {
                self.commits_left -= 1;
                self.head = id(self.head.get() + 1);
                self.on_their_way.push(self.head);
                vec![]
            }
            Step::Announce(index) => {
                let head = self.on_their_way.remove(index);
                self.announce(head, mutant)
            }
            Step::Lose(index) => {
                self.losses_left -= 1;
                self.on_their_way.remove(index);
                vec![]
            }
            Step::Reread => {
                self.reread = Some(self.head);
                vec![]
            }
            Step::DeliverReread => {
                let head = self.reread.take().expect("it is on its way");
                self.announce(head, mutant)
            }
            Step::Join(n) => {
                self.join(n, mutant);
                self.sessions[n].stage = Stage::Joined;
                vec![]
            }
            Step::Read(n) => {
                self.sessions[n].stage = Stage::Read(self.head);
                vec![]
            }
            Step::Deliver(n) => {
                let Stage::Read(head) = self.sessions[n].stage else {
                    unreachable!("it was read")
                };
                if mutant == Mutant::ReadsBeforeJoining {
                    self.join(n, mutant);
                }
                if mutant == Mutant::ForgetsWhatWasAnnounced
                    && let Some(audience) = self.hub.audiences.get_mut(&user())
                {
                    audience.announced = ServerId::ZERO;
                }
                self.sessions[n].stage = Stage::Connected;
                self.hub.head_read(&user(), n, head).into_iter().collect()
            }
            Step::Wake(n) => {
                self.sessions[n].is_woken = false;
                self.speak(n, mutant)?;
                vec![]
            }
            Step::Fill(n) => {
                let session = &mut self.sessions[n];
                (session.is_full, session.may_fill) = (true, false);
                vec![]
            }
            Step::Drain(n) => {
                self.sessions[n].is_full = false;
                if mutant != Mutant::DropsTheWakeWhenFull {
                    self.speak(n, mutant)?;
                }
                vec![]
            }
            Step::Leave(n) => {
                if mutant == Mutant::LeavesWithTheOthers {
                    self.hub.audiences.clear();
                }
                self.hub.leave(&user(), n);
                let session = &mut self.sessions[n];
                (session.stage, session.is_woken) = (Stage::Left, false);
                (session.is_full, session.may_fill) = (false, false);
                vec![]
            }
        };
        self.perform(actions)
    }

    fn join(&mut self, n: usize, mutant: Mutant) {
        self.hub.join(&user(), n);
        let audience = self.hub.audiences.get_mut(&user()).expect("it has joined");
        match mutant {
            Mutant::JoinsAsGreeted => {
                let announced = audience.announced;
                let place = audience.place(n).expect("it has joined");
                audience.members[place].1 = Told::UpTo(announced);
            }
            Mutant::ForgetsOthersAtJoin => audience.members.retain(|(member, _)| *member == n),
            _ => {}
        }
    }

    fn announce(&mut self, head: ServerId, mutant: Mutant) -> Vec<Tell<usize>> {
        let Some(audience) = self.hub.audiences.get_mut(&user()) else {
            return self.hub.announce(&user(), head);
        };
        let nobody = !audience
            .members
            .iter()
            .any(|(_, told)| matches!(told, Told::UpTo(_)));
        match mutant {
            Mutant::NotesNothingBeforeHello if nobody => vec![],
            Mutant::TellsOfOlderHeads if head < audience.announced => {
                let members = audience.members.iter();
                let tell = |&(member, _): &(usize, Told)| Tell { member, head };
                members.map(tell).collect()
            }
            Mutant::LowersTheHead => {
                audience.announced = head.min(audience.announced);
                for (_, told) in &mut audience.members {
                    if let Told::UpTo(up_to) = told {
                        *up_to = head.min(*up_to);
                    }
                }
                if head < audience.announced {
                    vec![]
                } else {
                    self.hub.announce(&user(), head)
                }
            }
            Mutant::TellsOneMember => {
                let mut actions = self.hub.announce(&user(), head);
                actions.truncate(1);
                actions
            }
            _ => self.hub.announce(&user(), head),
        }
    }

    /// As the notifier does it: raises the slot, wakes.
    fn perform(&mut self, actions: Vec<Tell<usize>>) -> Result<(), String> {
        for action in actions {
            let Tell { member, head } = action;
            let session = &mut self.sessions[member];
            if session.stage != Stage::Connected {
                return Err(format!(
                    "session {member} is told {action:?} too early or late"
                ));
            }
            session.slot = session.slot.max(head);
            session.is_woken = true;
        }
        Ok(())
    }

    /// As the session does it.
    fn speak(&mut self, n: usize, mutant: Mutant) -> Result<(), String> {
        let head = self.head;
        let session = &mut self.sessions[n];
        let Some(saying) = say(session.told, session.slot, session.is_full) else {
            return Ok(());
        };
        let told = match saying {
            Saying::Hello(told) if session.told.is_none() => told,
            Saying::Changes(mut after, told) => {
                if mutant == Mutant::SkipsBetween {
                    after = id(told.get() - 1);
                }
                if session.told != Some(after) || after >= told {
                    return Err(format!(
                        "session {n} says {saying:?} after {:?}",
                        session.told
                    ));
                }
                told
            }
            Saying::Hello(_) => return Err(format!("session {n} says hello twice")),
        };
        if told > head {
            return Err(format!("session {n} is told of {told}, the head is {head}"));
        }
        session.told = Some(told);
        Ok(())
    }

    /// Nothing is left to happen, but sessions that may leave.
    fn check_end(&self) -> Result<(), String> {
        for (n, session) in self.sessions.iter().enumerate() {
            if session.stage == Stage::Connected && session.told != Some(self.head) {
                let told = session.told;
                return Err(format!("session {n} was told {told:?} of {}", self.head));
            }
        }
        Ok(())
    }
}

/// Explores everything from one beginning: how many states there are, or what is
/// wrong and how it came to be.
fn explore(begin: World, mutant: Mutant) -> Result<usize, String> {
    let mut seen = HashSet::from([begin.key()]);
    let mut open = vec![(begin, Vec::new())];
    while let Some((world, way)) = open.pop() {
        let steps = world.steps(mutant);
        let is_end = steps
            .iter()
            .all(|step| matches!(step, Step::Leave(_) | Step::Fill(_)));
        if is_end {
            world
                .check_end()
                .map_err(|error| format!("{error}: {way:?}"))?;
        }
        for step in steps {
            let mut next = world.clone();
            let mut way: Vec<Step> = way.clone();
            way.push(step);
            next.take(step, mutant)
                .map_err(|error| format!("{error}: {way:?}"))?;
            if seen.insert(next.key()) {
                open.push((next, way));
            }
        }
    }
    Ok(seen.len())
}

/// Three commits that are announced in any order; then two of which one
/// announcement is lost, and the net below.
fn explore_all(mutant: Mutant) -> Result<usize, String> {
    Ok(explore(World::new(3, 0), mutant)? + explore(World::new(2, 1), mutant)?)
}

#[test]
fn no_commit_is_lost_in_any_order() {
    let states = explore_all(Mutant::None).unwrap_or_else(|error| panic!("{error}"));
    assert!(states > 10_000, "{states} states");
}

#[test]
fn every_mutant_is_caught() {
    for mutant in MUTANTS {
        assert!(explore_all(mutant).is_err(), "{mutant:?} is not noticed");
    }
}

#[test]
fn an_announced_head_only_rises() {
    let mut hub = Hub::default();
    hub.join(&user(), 1);
    hub.head_read(&user(), 1, id(5));
    assert_eq!(hub.announce(&user(), id(4)), vec![]);
    assert_eq!(
        hub.announce(&user(), id(6)),
        vec![Tell {
            member: 1,
            head: id(6)
        }]
    );
    assert_eq!(hub.announce(&user(), id(6)), vec![]);
    assert_eq!(hub.announce(&user(), id(5)), vec![]);
    hub.leave(&user(), 1);
    assert_eq!(hub.users().count(), 0);
}
