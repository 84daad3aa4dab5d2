//! What a device cannot know: for each delete that leaves no trace, two histories in
//! which it hears the same words, and only in one of which the row should be gone. And
//! one in which the words tell it after all.

use super::phone::{Phone, Request};
use super::server::Server;
use crate::tests::uuid;

/// Two devices of one user, and what one of them hears.
struct World {
    server: Server,
    heard: Vec<String>,
}

impl World {
    fn new() -> Self {
        Self {
            server: Server::new(),
            heard: Vec::new(),
        }
    }

    /// Downloads, uploads and downloads; from the start where the server has another
    /// history.
    fn sync(&mut self, phone: &mut Phone) {
        if phone.ask(&self.server, 100).is_none() {
            phone.start_over(&self.server.epoch());
        }
        for _ in 0..2 {
            let page = phone.ask(&self.server, 100).expect("this history");
            self.heard.push(format!("{page:?}"));
            phone.apply(page);
            if let Some(request) = phone.freeze() {
                let reply = self.server.upload(phone.number, &request.sent);
                self.heard.push(format!("{reply:?}"));
                phone.acknowledge(&request, &reply);
            }
        }
    }

    fn sync_unheard(&mut self, phone: &mut Phone) {
        let before = self.heard.len();
        self.sync(phone);
        self.heard.truncate(before);
    }
}

fn make(phone: &Phone) {
    phone.run(&format!("INSERT INTO p VALUES ('{}', 1, 2)", uuid(1)));
}

fn delete(phone: &Phone) {
    phone.run(&format!("DELETE FROM p WHERE id = '{}'", uuid(1)));
}

/// A restored server has lost the row; this device deletes it, and is told `applied`, or
/// has nothing to send. Then the other one offers it: because it had it all the time, or
/// because its user has made it since.
#[test]
fn a_row_offered_again_looks_like_one_made_again() {
    let [offered, made] = [true, false].map(|had_it| {
        let mut world = World::new();
        let (mut here, mut other) = (Phone::new(0), Phone::new(1));
        make(&here);
        world.sync(&mut here);
        if had_it {
            world.sync_unheard(&mut other);
        }
        world.server.restore(0);
        delete(&here);
        world.sync(&mut here);
        assert!(here.contents().is_empty());
        if !had_it {
            make(&other);
        }
        world.sync_unheard(&mut other);
        world.sync(&mut here);
        assert_eq!(here.contents().len(), 1, "so it takes the row");
        world.heard
    });
    assert_eq!(offered, made);
}

/// A file that was put back deletes a row of which it does not know that it has been
/// sent: by itself, in the life that is lost; or by another file of this name, whose user
/// has made a row of that key.
#[test]
fn a_row_of_a_lost_life_looks_like_one_of_another_file() {
    let [own, others] = [true, false].map(|is_own| {
        let mut world = World::new();
        let mut here = Phone::new(0);
        world.sync_unheard(&mut here);
        make(&here);
        let backup = here.backup();
        if is_own {
            world.sync_unheard(&mut here);
        } else {
            let mut twin = Phone::new(0);
            make(&twin);
            world.sync_unheard(&mut twin);
        }
        here.put_back(&backup);
        delete(&here);
        // Asked first, which numbers it knows, as always.
        let reply = world.server.upload(0, &[]);
        world.heard.push(format!("{reply:?}"));
        let nothing = Request {
            sent: Vec::new(),
            epoch: None,
        };
        here.acknowledge(&nothing, &reply);
        world.sync(&mut here);
        assert_eq!(here.contents().len(), 1, "so it takes the row");
        world.heard
    });
    assert_eq!(own, others);
}

/// Found by reading: what was frozen in the backup had been applied, the server had
/// forgotten the record, and the row that another device had deleted was made anew, with
/// no word to anybody.
#[test]
fn what_a_later_life_has_sent_is_not_made_anew() {
    let mut world = World::new();
    let (mut here, mut other) = (Phone::new(0), Phone::new(1));
    world.sync(&mut here);
    make(&here);
    here.freeze().expect("a change");
    let backup = here.backup();
    world.sync(&mut here);
    // Another number says that the first one is settled.
    here.run(&format!("INSERT INTO p VALUES ('{}', 3, 4)", uuid(2)));
    world.sync(&mut here);
    world.sync(&mut other);
    delete(&other);
    world.sync(&mut other);

    here.put_back(&backup);
    // Before any page says how far the numbers have got.
    let request = here.freeze().expect("what was frozen");
    let reply = world.server.upload(here.number, &request.sent);
    here.acknowledge(&request, &reply);
    for _ in 0..2 {
        world.sync(&mut here);
        world.sync(&mut other);
    }
    for phone in [&here, &other] {
        let left: Vec<_> = phone.contents().into_keys().collect();
        assert_eq!(left, [("p", uuid(2))], "device {}", phone.number);
    }
    let kept = "SELECT count(*) FROM _sync_conflicts WHERE mine ->> 'a' = 1 AND theirs IS NULL";
    assert_eq!(here.count(kept), 1);
}

/// A change beside it has used the highest number: the answer explains itself, and the
/// row is one made under a used key.
#[test]
fn what_this_life_sends_first_is_made_anew() {
    let mut world = World::new();
    let (mut here, mut other) = (Phone::new(0), Phone::new(1));
    make(&other);
    world.sync(&mut other);
    delete(&other);
    world.sync(&mut other);
    world.sync(&mut here);
    // Nobody has told this device of the row: a tombstone that was folded away.
    here.app
        .execute_batch("DELETE FROM _sync_row")
        .expect("forgotten");
    make(&here);
    here.run(&format!("INSERT INTO p VALUES ('{}', 3, 4)", uuid(2)));
    for _ in 0..2 {
        world.sync(&mut here);
        world.sync(&mut other);
    }
    for phone in [&here, &other] {
        assert_eq!(phone.contents().len(), 2, "device {}", phone.number);
        assert_eq!(phone.count("SELECT count(*) FROM _sync_conflicts"), 0);
    }
}
