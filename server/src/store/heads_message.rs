//! Heads as they travel between processes: JSON arrays of pairs, user and head.

use oversync_shared::{ServerId, UserId};

/// Arrays that are each at most so many bytes.
pub(crate) fn write(heads: &[(UserId, ServerId)], most: usize) -> Vec<String> {
    let mut messages = Vec::new();
    let mut current = String::new();
    for head in heads {
        let pair = serde_json::to_string(head).expect("BUG: a pair serialises");
        if current.len() + pair.len() + 2 > most {
            messages.push(format!("[{}]", std::mem::take(&mut current)));
        }
        if !current.is_empty() {
            current.push(',');
        }
        current.push_str(&pair);
    }
    if !current.is_empty() {
        messages.push(format!("[{current}]"));
    }
    messages
}

/// What is not understood is some other version's; the net below takes care.
pub(crate) fn read(message: &[u8]) -> Vec<(UserId, ServerId)> {
    let pairs: Vec<(String, ServerId)> = serde_json::from_slice(message).unwrap_or_default();
    pairs
        .into_iter()
        .filter_map(|(user, head)| Some((UserId::new(user).ok()?, head)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_stay_below_the_limit_and_nothing_is_lost() {
        let heads: Vec<(UserId, ServerId)> = (0..500)
            .map(|n| {
                (
                    UserId::new(format!("{n}-{}", "ü".repeat(100))).expect("valid"),
                    ServerId::new(n),
                )
            })
            .collect();
        let messages = write(&heads, 7_900);
        assert!(messages.len() > 1 && messages.iter().all(|message| message.len() < 8_000));
        let found = messages.iter().flat_map(|message| read(message.as_bytes()));
        assert_eq!(found.collect::<Vec<_>>(), heads);
        assert!(write(&[], 7_900).is_empty() && read(b"{}").is_empty());
    }
}
