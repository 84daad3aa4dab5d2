//! One user: devices that are behind, silent or revoked, and what keeps the log from
//! being folded.

use super::Examination;
use crate::clock::Clock;
use crate::settings::Settings;
use crate::store::StoreError;
use crate::store::jumps::Jumps;
use crate::store::view::{DEVICES_LOOKED_AT, DeviceView, UserRecord, View, holders};
use oversync_shared::{ServerId, UserId};
use time::{Duration, OffsetDateTime};

/// A device that lacks something, and has not come for so long, is away.
const AWAY: Duration = Duration::hours(24);

/// A user's head row and devices, and where the stream has no entries.
pub(super) struct Known {
    pub(super) record: UserRecord,
    pub(super) devices: Vec<DeviceView>,
    pub(super) jumps: Jumps,
}

/// Looks at a user; `None` for one never seen.
pub(super) async fn look(
    found: &mut Examination,
    settings: &Settings,
    view: &dyn View,
    user: &UserId,
    clock: &Clock,
) -> Result<Option<Known>, StoreError> {
    let rules = settings.retention.rules();
    let mut devices = view
        .devices(user, None, rules, DEVICES_LOOKED_AT + 1)
        .await?;
    let Some(record) = view.user(user, rules).await? else {
        let what = format!("the server has never taken anything from a user called {user}");
        let advice = "compare the name with the sub of the device's token; what waits on a device is told by oversqlite doctor there";
        found.trouble("user", what, advice);
        return Ok(None);
    };
    if devices.len() as i64 > DEVICES_LOOKED_AT {
        devices.truncate(DEVICES_LOOKED_AT as usize);
        let what = format!(
            "it has more than {DEVICES_LOOKED_AT} devices: all that is said here is of the first {DEVICES_LOOKED_AT} by name"
        );
        found.note("user", what, "the console lists all of them");
    }
    let jumps = view.jumps(user).await?;
    let (head, floor) = (record.head, record.floor);
    let count = devices.len();
    found.saw(
        "user",
        format!("{user}: head {head}, floor {floor}, {count} devices"),
    );
    let known = Known {
        record,
        devices,
        jumps,
    };
    for each in &known.devices {
        device(found, each, &known, settings, clock.now());
    }
    retention(found, settings, &known);
    Ok(Some(known))
}

/// When it was last there, as far as is known.
fn last_seen(device: &DeviceView) -> Option<OffsetDateTime> {
    device.seen_at.max(device.last_change_at)
}

/// How many entries it has not read that it needs.
pub(super) fn behind(device: &DeviceView, known: &Known) -> Option<i64> {
    // One at the start may be one that only uploads.
    device.cursor.filter(|cursor| *cursor > ServerId::ZERO)?;
    device.behind(known.record.head, &known.jumps)
}

fn device(
    found: &mut Examination,
    device: &DeviceView,
    known: &Known,
    settings: &Settings,
    now: OffsetDateTime,
) {
    let name = &device.device;
    if let Some(at) = device.revoked_at {
        let what =
            format!("device {name} is revoked since {at}: it is refused whatever its token says");
        return found.note("device", what, "oversync reinstate lets it in again");
    }
    let Some(seen) = last_seen(device) else {
        return;
    };
    let away = now - seen;
    let days = away.whole_days();
    let silent = i64::from(settings.retention.silent_days);
    match behind(device, known) {
        Some(entries) if entries > 0 && away > AWAY => found.trouble(
            "device",
            format!("device {name} is {entries} entries behind, and was last here {days} days ago ({seen})"),
            "open its application with a network, and run oversqlite doctor there; revoke it if it is lost",
        ),
        Some(_) | None if days >= silent => found.note(
            "device",
            format!("device {name} has been silent for {days} days: it counts for nothing, and begins again when it comes"),
            "revoke it if it is lost",
        ),
        Some(_) | None => {}
    }
}

fn retention(found: &mut Examination, settings: &Settings, known: &Known) {
    let Known {
        record,
        devices,
        jumps,
    } = known;
    let aged = record.aged.unwrap_or(record.floor);
    let could = jumps.entries_between(record.floor, aged);
    let worth = i64::from(settings.retention.min_entries);
    if !settings.retention.enabled || could < worth {
        return;
    }
    let Some((place, holder)) = holders(devices, aged).min_by_key(|(place, _)| *place) else {
        return;
    };
    // Folded as far as is worth it without waiting for anybody.
    if jumps.entries_between(record.floor, place) >= worth {
        return;
    }
    let (name, cursor) = (&holder.device, holder.cursor);
    let at = cursor.map_or_else(
        || "nobody knows where".to_owned(),
        |cursor| cursor.to_string(),
    );
    let days = settings.retention.silent_days;
    found.trouble(
        "retention",
        format!("{could} entries are old enough to be folded, and wait for device {name}, whose cursor is {at}"),
        format!("have it synchronise, or revoke it; it is waited for until it has been silent for {days} days"),
    );
}
