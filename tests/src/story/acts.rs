//! The stories themselves. Keys end in a number of the story; the first digits
//! say what they are: 1 people, 2 posts, 3 nodes, 4 codes, 5 uses, 6 strangers.

use super::Do::{
    AnswerLost, At, Download, DropRejected, DuringUpload, Peer, RestoreConflicts, RetryRejected,
    SignOut, Sync, Twin,
};
use super::{Act, Change, Story, Which};

const fn row(id: i64, table: &'static str, key: &'static str, row: &'static str) -> Change {
    Change {
        id,
        table,
        key,
        row: Some(row),
    }
}

const fn gone(id: i64, table: &'static str, key: &'static str) -> Change {
    Change {
        id,
        table,
        key,
        row: None,
    }
}

const P1: &str = "10000000-0000-4000-8000-000000000001";
const P2: &str = "10000000-0000-4000-8000-000000000002";
const P3: &str = "10000000-0000-4000-8000-000000000003";
const P4: &str = "10000000-0000-4000-8000-000000000004";
const P5: &str = "10000000-0000-4000-8000-000000000005";
const P8: &str = "10000000-0000-4000-8000-000000000008";
const P9: &str = "10000000-0000-4000-8000-000000000009";
const O3: &str = "20000000-0000-4000-8000-000000000003";
const N1: &str = "30000000-0000-4000-8000-000000000001";
const N2: &str = "30000000-0000-4000-8000-000000000002";
const C1: &str = "40000000-0000-4000-8000-000000000001";
const C2: &str = "40000000-0000-4000-8000-000000000002";
const U1: &str = "50000000-0000-4000-8000-000000000001";
const S1: &str = "60000000-0000-4000-8000-000000000001";

/// The life of the device that shows what another one would: it starts with
/// nothing, wherever the client is told to connect to.
pub const FRESH: Story = Story {
    name: "fresh",
    acts: &[Act {
        write: "",
        then: &[Sync],
    }],
};

/// All that are to be cut short.
pub const STORIES: &[Story] = &[
    Story {
        name: "install",
        acts: INSTALL,
    },
    Story {
        name: "meet",
        acts: MEET,
    },
    Story {
        name: "refused",
        acts: REFUSED,
    },
    Story {
        name: "copied",
        acts: COPIED,
    },
    Story {
        name: "moved",
        acts: MOVED,
    },
    Story {
        name: "forgotten",
        acts: FORGOTTEN,
    },
    Story {
        name: "left",
        acts: LEFT,
    },
];

/// A file with rows of its own meets an account with more than a page of rows:
/// one the same, one of an unknown table, one that a CHECK refuses, a ring.
const INSTALL: &[Act] = &[
    Act {
        write: "INSERT INTO people (id, name) VALUES
                ('10000000-0000-4000-8000-000000000001', 'offline'),
                ('10000000-0000-4000-8000-000000000002', 'the same');
            INSERT INTO posts VALUES ('20000000-0000-4000-8000-000000000001', 'offline',
                '10000000-0000-4000-8000-000000000001');",
        then: &[
            Peer(&[
                row(1, "people", P2, r#""name":"the same","email":null,"age":null"#),
                row(2, "people", P3, r#""name":"theirs""#),
                row(3, "posts", O3, r#""title":"theirs","author_id":"10000000-0000-4000-8000-000000000003""#),
                row(4, "strangers", S1, r#""a":1"#),
                row(5, "people", P8, r#""name":"too old","age":500"#),
                row(6, "nodes", N1, r#""next_id":"30000000-0000-4000-8000-000000000002""#),
                row(7, "nodes", N2, r#""next_id":"30000000-0000-4000-8000-000000000001""#),
            ]),
            Sync,
        ],
    },
    Act {
        write: "UPDATE people SET email = 'edited' WHERE id = '10000000-0000-4000-8000-000000000003';
            DELETE FROM posts WHERE id = '20000000-0000-4000-8000-000000000003';
            INSERT INTO posts VALUES ('20000000-0000-4000-8000-000000000004', 'another',
                '10000000-0000-4000-8000-000000000003');",
        then: &[
            DuringUpload(
                "UPDATE people SET email = 'in flight' WHERE id = '10000000-0000-4000-8000-000000000003';
                 DELETE FROM posts WHERE id = '20000000-0000-4000-8000-000000000004';
                 INSERT INTO people (id, name)
                     VALUES ('10000000-0000-4000-8000-000000000007', 'in flight')",
            ),
            Sync,
        ],
    },
    Act {
        write: "",
        then: &[
            Peer(&[
                row(8, "people", P8, r#""name":"young again","age":50"#),
                row(9, "people", P1, r#""name":"renamed""#),
            ]),
            Sync,
        ],
    },
];

/// Two devices edit the same rows: through a page, through an answer, and with an
/// answer that never came.
const MEET: &[Act] = &[
    Act {
        write: "INSERT INTO people (id, name) VALUES
                ('10000000-0000-4000-8000-000000000001', 'one'),
                ('10000000-0000-4000-8000-000000000002', 'two'),
                ('10000000-0000-4000-8000-000000000003', 'three'),
                ('10000000-0000-4000-8000-000000000004', 'four'),
                ('10000000-0000-4000-8000-000000000005', 'five');
            INSERT INTO posts VALUES ('20000000-0000-4000-8000-000000000001', 'one',
                '10000000-0000-4000-8000-000000000002');",
        then: &[Sync],
    },
    Act {
        write: "UPDATE people SET name = 'mine' WHERE id = '10000000-0000-4000-8000-000000000001';
            UPDATE people SET email = 'mine' WHERE id = '10000000-0000-4000-8000-000000000002';
            UPDATE people SET name = 'mine' WHERE id = '10000000-0000-4000-8000-000000000003';
            DELETE FROM people WHERE id = '10000000-0000-4000-8000-000000000004';",
        then: &[
            Peer(&[
                row(1, "people", P1, r#""name":"theirs","email":null,"age":null"#),
                row(2, "people", P2, r#""name":"theirs","email":null,"age":null"#),
                // Touched, not changed.
                row(3, "people", P3, r#""id":"10000000-0000-4000-8000-000000000003","name":"three","email":null,"age":null"#),
                row(4, "people", P4, r#""name":"theirs","email":null,"age":null"#),
            ]),
            Download,
            Sync,
        ],
    },
    Act {
        write: "UPDATE people SET name = 'mine again' WHERE id = '10000000-0000-4000-8000-000000000001';
            UPDATE people SET age = 30 WHERE id = '10000000-0000-4000-8000-000000000003';",
        then: &[
            Peer(&[
                row(5, "people", P1, r#""name":"theirs again","email":null,"age":null"#),
                row(6, "people", P3, r#""name":"theirs again","email":null,"age":null"#),
            ]),
            Sync,
        ],
    },
    Act {
        write: "",
        then: &[RestoreConflicts, Sync],
    },
    Act {
        write: "UPDATE people SET name = 'sent' WHERE id = '10000000-0000-4000-8000-000000000005';",
        then: &[
            AnswerLost,
            Peer(&[row(7, "people", P5, r#""name":"on top","email":null,"age":null"#)]),
            Download,
            Sync,
        ],
    },
    Act {
        write: "",
        then: &[Peer(&[gone(8, "people", P2)]), Sync],
    },
];

/// Edits that cannot be taken, and one row of a page that only its commit refuses.
const REFUSED: &[Act] = &[
    Act {
        write: "INSERT INTO people (id, name, email) VALUES
                ('10000000-0000-4000-8000-000000000001', 'small', NULL),
                ('10000000-0000-4000-8000-000000000002', 'large', printf('%.500c', 'x')),
                ('no uuid', 'lost key', NULL),
                ('10000000-0000-4000-8000-000000000004', 'bytes', x'00ff');
            INSERT INTO posts VALUES ('20000000-0000-4000-8000-000000000001', 'of the large one',
                '10000000-0000-4000-8000-000000000002');",
        then: &[Sync],
    },
    Act {
        write: "UPDATE people SET email = 'x' WHERE id = '10000000-0000-4000-8000-000000000002';",
        then: &[Sync],
    },
    Act {
        write: "UPDATE people SET email = printf('%.500c', 'y')
                WHERE id = '10000000-0000-4000-8000-000000000001';",
        then: &[Sync, RetryRejected, Sync, DropRejected, Sync],
    },
    Act {
        write: "",
        then: &[
            Peer(&[
                row(1, "codes", C1, r#""code":1"#),
                row(2, "uses", U1, r#""code":1"#),
            ]),
            Sync,
            Peer(&[
                row(3, "people", P3, r#""name":"beside it""#),
                row(4, "codes", C1, r#""code":2"#),
                row(5, "codes", C2, r#""code":3"#),
            ]),
            Sync,
        ],
    },
];

/// Another file uses the device's name, and then an answer is lost.
const COPIED: &[Act] = &[
    Act {
        write: "INSERT INTO people (id, name) VALUES ('10000000-0000-4000-8000-000000000001', 'one');",
        then: &[Sync],
    },
    Act {
        write: "INSERT INTO people (id, name) VALUES ('10000000-0000-4000-8000-000000000002', 'two');",
        then: &[
            Twin(&row(0, "people", P9, r#""name":"of the twin""#), 0),
            Sync,
        ],
    },
    Act {
        write: "INSERT INTO people (id, name) VALUES ('10000000-0000-4000-8000-000000000003', 'three');",
        then: &[
            Twin(&row(0, "people", P8, r#""name":"of the twin, later""#), 5),
            Sync,
        ],
    },
    Act {
        write: "UPDATE people SET name = 'sent' WHERE id = '10000000-0000-4000-8000-000000000001';",
        then: &[AnswerLost, Download, Sync],
    },
];

/// The server is another one, with an older state of a row and without others.
const MOVED: &[Act] = &[
    Act {
        write: "INSERT INTO people (id, name) VALUES
                ('10000000-0000-4000-8000-000000000001', 'one'),
                ('10000000-0000-4000-8000-000000000002', 'two'),
                ('10000000-0000-4000-8000-000000000003', 'three');
            INSERT INTO posts VALUES ('20000000-0000-4000-8000-000000000001', 'one',
                '10000000-0000-4000-8000-000000000001');",
        then: &[Sync],
    },
    Act {
        write: "UPDATE people SET name = 'three, newer' WHERE id = '10000000-0000-4000-8000-000000000003';",
        then: &[Sync],
    },
    Act {
        write: "UPDATE people SET email = 'unsent' WHERE id = '10000000-0000-4000-8000-000000000001';",
        then: &[
            At(Which::Second),
            Peer(&[
                row(1, "people", P3, r#""name":"three","email":null,"age":null"#),
                row(2, "people", P4, r#""name":"new here""#),
            ]),
            Sync,
        ],
    },
];

/// A server that tells no epochs has forgotten a row.
const FORGOTTEN: &[Act] = &[
    Act {
        write: "",
        then: &[At(Which::Second), Sync],
    },
    Act {
        write: "INSERT INTO people (id, name) VALUES ('10000000-0000-4000-8000-000000000001', 'one');",
        then: &[Sync],
    },
    Act {
        write: "UPDATE people SET name = 'one, newer' WHERE id = '10000000-0000-4000-8000-000000000001';
            UPDATE _sync_client SET epoch = NULL;",
        then: &[
            At(Which::First),
            Peer(&[
                row(1, "people", P3, r#""name":"three""#),
                row(2, "people", P4, r#""name":"four""#),
            ]),
            Sync,
        ],
    },
];

/// The user leaves, with something unsent.
const LEFT: &[Act] = &[
    Act {
        write:
            "INSERT INTO people (id, name) VALUES ('10000000-0000-4000-8000-000000000001', 'one');
            INSERT INTO posts VALUES ('20000000-0000-4000-8000-000000000001', 'one',
                '10000000-0000-4000-8000-000000000001');",
        then: &[Sync],
    },
    Act {
        write: "UPDATE people SET name = 'unsent' WHERE id = '10000000-0000-4000-8000-000000000001';",
        then: &[SignOut],
    },
];
