//! The scenarios that have names: files beside the sources, built in, to be
//! printed and started from.

/// A named scenario.
#[derive(Debug, Clone, Copy)]
pub struct Named {
    /// By which it is called.
    pub name: &'static str,
    text: &'static str,
}

/// All of them.
pub const NAMED: &[Named] = &[
    Named {
        name: "smoke",
        text: include_str!("../../scenarios/smoke.toml"),
    },
    Named {
        name: "realtime",
        text: include_str!("../../scenarios/realtime.toml"),
    },
    Named {
        name: "upload-1",
        text: include_str!("../../scenarios/upload-1.toml"),
    },
    Named {
        name: "upload-100",
        text: include_str!("../../scenarios/upload-100.toml"),
    },
    Named {
        name: "hydrate",
        text: include_str!("../../scenarios/hydrate.toml"),
    },
    Named {
        name: "idle-10k",
        text: include_str!("../../scenarios/idle-10k.toml"),
    },
    Named {
        name: "storm",
        text: include_str!("../../scenarios/storm.toml"),
    },
    Named {
        name: "conflicts",
        text: include_str!("../../scenarios/conflicts.toml"),
    },
    Named {
        name: "growth",
        text: include_str!("../../scenarios/growth.toml"),
    },
    Named {
        name: "soak",
        text: include_str!("../../scenarios/soak.toml"),
    },
    Named {
        name: "stories",
        text: include_str!("../../scenarios/stories.toml"),
    },
    Named {
        name: "polling",
        text: include_str!("../../scenarios/polling.toml"),
    },
];

/// The TOML of a named scenario, comments and all.
pub fn text_of(name: &str) -> Option<&'static str> {
    NAMED
        .iter()
        .find(|named| named.name == name)
        .map(|named| named.text)
}
