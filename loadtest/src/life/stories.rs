//! The eleven stories. Each is told once, for any user at any server; it says
//! what it knows must be so on the way, and gives back the devices that must
//! equal the server in the end. The same lives, looked at more closely and on
//! servers that project, are tests of this repository.

use super::{BLOB_KEYS, Life, Phone, key, person, post};
use anyhow::ensure;

/// A story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Story {
    /// A year of use, and then somebody thinks of synchronising.
    FreshInstall,
    /// Two devices that hear of each other at once.
    NormalUse,
    /// The same device name, an empty file.
    Reinstall,
    /// An old device in a drawer, a new one beside it.
    Replacement,
    /// Edits without a network, again and again.
    OfflineAndOnline,
    /// The same rows on both sides.
    Conflicts,
    /// Somebody else signs in.
    UserSwitch,
    /// 50 parents and 100 children in one go.
    ManyOffline,
    /// 60 parents and 120 children over many batches, with deletes.
    ManyBatches,
    /// Deleted here, added again there.
    DeleteAndAdd,
    /// Keys that are BLOBs, children that go with their parent, and a file that
    /// is put back.
    BlobKeys,
}

/// All of them.
pub const STORIES: [Story; 11] = [
    Story::FreshInstall,
    Story::NormalUse,
    Story::Reinstall,
    Story::Replacement,
    Story::OfflineAndOnline,
    Story::Conflicts,
    Story::UserSwitch,
    Story::ManyOffline,
    Story::ManyBatches,
    Story::DeleteAndAdd,
    Story::BlobKeys,
];

type Left = anyhow::Result<Vec<Phone>>;

impl Story {
    /// For messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FreshInstall => "a fresh install",
            Self::NormalUse => "normal use",
            Self::Reinstall => "a reinstall",
            Self::Replacement => "a replaced device",
            Self::OfflineAndOnline => "offline and online again",
            Self::Conflicts => "conflicts",
            Self::UserSwitch => "another user signs in",
            Self::ManyOffline => "50 parents and 100 children made offline",
            Self::ManyBatches => "many batches with deletes",
            Self::DeleteAndAdd => "deleted here, added again there",
            Self::BlobKeys => "BLOB keys and a file that is put back",
        }
    }

    pub(super) async fn tell(self, life: &Life) -> Left {
        match self {
            Self::FreshInstall => fresh_install(life).await,
            Self::NormalUse => normal_use(life).await,
            Self::Reinstall => reinstall(life).await,
            Self::Replacement => replacement(life).await,
            Self::OfflineAndOnline => offline_and_online(life).await,
            Self::Conflicts => conflicts(life).await,
            Self::UserSwitch => user_switch(life).await,
            Self::ManyOffline => many_offline(life).await,
            Self::ManyBatches => many_batches(life).await,
            Self::DeleteAndAdd => delete_and_add(life).await,
            Self::BlobKeys => blob_keys(life).await,
        }
    }
}

async fn fresh_install(life: &Life) -> Left {
    let laptop = life.online("laptop").await?;
    laptop.edit(1, &person(&key(), "from the laptop"))?;
    laptop.sync().await?;
    let mut phone = life.bought("phone")?;
    let author = key();
    phone.edit(
        2,
        &(person(&author, "from before") + &post(&author, "from before")),
    )?;
    phone.open().await?;
    phone.edit(1, &post(&author, "before the first sync"))?;
    phone.first_sync().await?;
    laptop.sync().await?;
    ensure!(laptop.count("users")? == 2 && laptop.count("posts")? == 2);
    Ok(vec![laptop, phone])
}

async fn normal_use(life: &Life) -> Left {
    let (phone, laptop) = (life.online("phone").await?, life.online("laptop").await?);
    for device in [&phone, &laptop] {
        device.client()?.start()?;
    }
    let author = key();
    phone.edit(1, &person(&author, "Ann"))?;
    laptop.has("users", 1).await?;
    for day in 1..=10 {
        let (here, there) = if day % 2 == 0 {
            (&phone, &laptop)
        } else {
            (&laptop, &phone)
        };
        here.edit(
            2,
            &format!(
                "{}UPDATE users SET email = 'day {day}'",
                post(&author, "day")
            ),
        )?;
        there.has("posts", day).await?;
    }
    Ok(vec![phone, laptop])
}

async fn reinstall(life: &Life) -> Left {
    let author = key();
    let mut before = life.online("phone").await?;
    before.edit(1, &person(&author, "Ann"))?;
    for _ in 0..5 {
        before.edit(1, &post(&author, "before"))?;
    }
    before.sync().await?;
    before.close().await;
    let mut after = life.bought("phone")?;
    after.open().await?;
    let newcomer = key();
    after.edit(2, &(person(&newcomer, "Bob") + &post(&newcomer, "after")))?;
    after.first_sync().await?;
    ensure!(after.count("users")? == 2 && after.count("posts")? == 6);
    after.edit(6, "UPDATE posts SET title = title || '.'")?;
    Ok(vec![after])
}

async fn replacement(life: &Life) -> Left {
    let (shared, old) = (key(), life.online("old").await?);
    old.edit(1, &person(&shared, "Ann"))?;
    old.sync().await?;
    // In a drawer, with one edit that nobody has seen.
    old.edit(1, &person(&key(), "Late"))?;
    let new = life.online("new").await?;
    ensure!(new.count("users")? == 1);
    for age in 1..=5 {
        new.edit(
            1,
            &format!("UPDATE users SET email = '{age}' WHERE id = '{shared}'"),
        )?;
        new.sync().await?;
    }
    old.sync().await?;
    ensure!(old.count("users")? == 2);
    Ok(vec![old, new])
}

async fn offline_and_online(life: &Life) -> Left {
    let mut devices = vec![life.online("phone").await?, life.online("laptop").await?];
    for _ in 0..3 {
        for device in &mut devices {
            device.close().await;
            let author = key();
            device.edit(2, &(person(&author, "offline") + &post(&author, "offline")))?;
        }
        for device in &mut devices {
            device.open().await?;
            ensure!(device.client()?.status().await?.unsent == 2);
            device.sync().await?;
        }
    }
    devices[0].sync().await?;
    ensure!(devices[0].count("posts")? == 6);
    Ok(devices)
}

async fn conflicts(life: &Life) -> Left {
    let (phone, laptop) = (life.online("phone").await?, life.online("laptop").await?);
    let (both, gone, kept) = (key(), key(), key());
    phone.edit(
        3,
        &(person(&both, "both") + &person(&gone, "gone") + &person(&kept, "kept")),
    )?;
    phone.sync().await?;
    laptop.sync().await?;
    let rename =
        |id: &str, name: &str| format!("UPDATE users SET name = '{name}' WHERE id = '{id}';");
    let delete = |id: &str| format!("DELETE FROM users WHERE id = '{id}';");
    phone.edit(
        3,
        &(rename(&both, "phone") + &delete(&gone) + &rename(&kept, "edited")),
    )?;
    laptop.edit(
        3,
        &(rename(&both, "laptop") + &rename(&gone, "edited") + &delete(&kept)),
    )?;
    phone.sync().await?;
    laptop.sync().await?;
    let lost = laptop.client()?.conflicts().await?;
    ensure!(
        lost.iter()
            .any(|conflict| format!("{conflict:?}").contains("laptop")),
        "what gave way is on no list: {lost:?}"
    );
    Ok(vec![phone, laptop])
}

async fn user_switch(life: &Life) -> Left {
    let mut phone = life.online("phone").await?;
    phone.edit(1, &person(&key(), "of Ann"))?;
    phone.sync().await?;
    phone.edit(1, &person(&key(), "of Ann, at the last minute"))?;
    phone.sign_out().await?;
    ensure!(phone.count("users")? == 0, "she has left something behind");
    phone.user = format!("{}-other", phone.user);
    phone.open().await?;
    phone.first_sync().await?;
    ensure!(phone.count("users")? == 0, "somebody else's rows");
    phone.edit(1, &person(&key(), "of Bob"))?;
    let hers = life.online("laptop").await?;
    ensure!(hers.count("users")? == 2);
    Ok(vec![phone, hers])
}

async fn many_offline(life: &Life) -> Left {
    let (phone, laptop) = (life.online("phone").await?, life.online("laptop").await?);
    let parents: Vec<String> = (0..50).map(|_| key()).collect();
    // Children first: the references hold when the transaction ends.
    let children = (0..100).map(|n| post(&parents[n % 50], "child"));
    let all: String = children
        .chain(parents.iter().map(|parent| person(parent, "parent")))
        .collect();
    phone.edit(150, &all)?;
    phone.sync().await?;
    laptop.sync().await?;
    ensure!(laptop.count("users")? == 50 && laptop.count("posts")? == 100);
    Ok(vec![phone, laptop])
}

async fn many_batches(life: &Life) -> Left {
    let (phone, laptop) = (life.online("phone").await?, life.online("laptop").await?);
    let parents: Vec<String> = (0..60).map(|_| key()).collect();
    for (n, parent) in parents.iter().enumerate() {
        let family = person(parent, "parent") + &post(parent, "first") + &post(parent, "second");
        phone.edit(3, &family)?;
        if n % 7 == 3 {
            phone.sync().await?;
        }
    }
    for parent in parents.iter().step_by(6) {
        phone.edit(3, &format!("DELETE FROM users WHERE id = '{parent}'"))?;
    }
    laptop.sync().await?;
    laptop.edit(1, "DELETE FROM posts WHERE title = 'second'")?;
    laptop.sync().await?;
    phone.sync().await?;
    ensure!(phone.count("users")? == 50);
    Ok(vec![phone, laptop])
}

async fn delete_and_add(life: &Life) -> Left {
    let (phone, laptop) = (life.online("phone").await?, life.online("laptop").await?);
    let id = key();
    phone.edit(1, &person(&id, "first"))?;
    phone.sync().await?;
    laptop.sync().await?;
    let delete = format!("DELETE FROM users WHERE id = '{id}';");
    for round in 0..4 {
        let (here, there) = if round % 2 == 0 {
            (&phone, &laptop)
        } else {
            (&laptop, &phone)
        };
        here.edit(1, &delete)?;
        here.sync().await?;
        there.edit(2, &(delete.clone() + &person(&id, "again")))?;
        there.sync().await?;
        here.sync().await?;
        there.sync().await?;
        if here.count("users")? == 0 {
            here.edit(1, &person(&id, "added after all"))?;
            here.sync().await?;
            there.sync().await?;
        }
        ensure!(there.count("users")? == 1);
    }
    Ok(vec![phone, laptop])
}

async fn blob_keys(life: &Life) -> Left {
    let mut phone = life.made("phone", BLOB_KEYS)?;
    let mut laptop = life.made("laptop", BLOB_KEYS)?;
    for device in [&mut phone, &mut laptop] {
        device.open().await?;
        device.first_sync().await?;
    }
    phone.edit(
        4,
        "INSERT INTO users (name) VALUES ('summer'), ('winter');
         INSERT INTO posts (title, author_id) SELECT 'a photo', id FROM users;",
    )?;
    phone.sync().await?;
    laptop.sync().await?;
    laptop.edit(2, "UPDATE users SET name = name || ', edited'")?;
    laptop.sync().await?;
    let old_state = laptop.backup()?;
    phone.sync().await?;
    phone.edit(2, "DELETE FROM users WHERE name LIKE 'summer%'")?;
    phone.sync().await?;
    laptop.edit(
        1,
        "UPDATE users SET email = 'new' WHERE name LIKE 'winter%'",
    )?;
    laptop.sync().await?;
    // The old state knows nothing of that, and its numbers are used up.
    laptop.close().await;
    laptop.put_back(&old_state)?;
    laptop.edit(1, "INSERT INTO users (name) VALUES ('put back')")?;
    laptop.open().await?;
    laptop.sync().await?;
    ensure!(laptop.count("users")? == 2 && laptop.count("posts")? == 1);
    Ok(vec![phone, laptop])
}
