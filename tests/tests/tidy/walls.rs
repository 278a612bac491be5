//! Which packages a crate may reach: the walls of DESIGN 2, read from `Cargo.lock`, development dependencies included.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

/// Package → the packages it depends on. `Cargo.lock` adds a version where a name alone is not enough; versions do
/// not matter to a wall, so all versions of a package count as one.
pub struct Lock(BTreeMap<String, BTreeSet<String>>);

/// Crates that may not reach some packages, even through others.
pub struct Wall {
    crates: &'static [&'static str],
    unreachable: &'static [&'static str],
    why: &'static str,
}

/// The walls.
pub const WALLS: &[Wall] = &[
    Wall {
        crates: &[
            "stormglass-runtime",
            "stormglass-orders",
            "stormglass-embedded",
            "stormglass-sim",
            "stormglass-harness",
            "stormglass-chaos",
        ],
        unreachable: &[
            "rdkafka",
            "rdkafka-sys",
            "sqlx",
            "sqlx-core",
            "tokio-postgres",
            "testcontainers",
            "bollard",
            "stormglass-server",
        ],
        why: "the storm needs no Docker and no server: real I/O is system/server's alone",
    },
    Wall {
        crates: &[
            "stormglass-runtime",
            "stormglass-orders",
            "stormglass-embedded",
            "stormglass-sim",
            "stormglass-harness",
            "stormglass-chaos",
        ],
        unreachable: &["cc", "cmake", "bindgen", "pkg-config", "openssl-sys"],
        why: "`cargo chaos` builds without a C toolchain",
    },
    Wall {
        crates: &["stormglass-sim", "stormglass-harness"],
        unreachable: &["stormglass-orders", "stormglass-chaos"],
        why: "the storm is generic: the order suite is only its first user",
    },
    Wall {
        crates: &["stormglass-runtime"],
        unreachable: &[
            "stormglass-orders",
            "stormglass-embedded",
            "stormglass-sim",
            "stormglass-harness",
            "turmoil",
        ],
        why: "the runtime stands on its ports alone",
    },
    Wall {
        crates: &["stormglass-orders"],
        unreachable: &["stormglass-embedded", "stormglass-sim", "stormglass-harness", "turmoil"],
        why: "the domain stands on the runtime alone",
    },
];

impl Lock {
    /// Reads the text of a `Cargo.lock`.
    pub fn parse(text: &str) -> Lock {
        let lock: Table = text.parse().expect("Cargo.lock is TOML");
        let mut packages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for package in lock.get("package").and_then(Value::as_array).expect("Cargo.lock lists packages") {
            let name = package.get("name").and_then(Value::as_str).expect("a package has a name");
            let needs = package.get("dependencies").and_then(Value::as_array).into_iter().flatten();
            let names =
                needs.filter_map(Value::as_str).filter_map(|need| need.split(' ').next()).map(str::to_owned);
            packages.entry(name.to_owned()).or_default().extend(names);
        }
        Lock(packages)
    }

    /// The shortest way from one package to another.
    fn way(&self, from: &str, to: &str) -> Option<Vec<String>> {
        let mut seen = BTreeSet::from([from.to_owned()]);
        let mut ways = vec![vec![from.to_owned()]];
        while !ways.is_empty() {
            let mut longer = Vec::new();
            for way in ways {
                let Some(last) = way.last() else { continue };
                if last == to {
                    return Some(way);
                }
                for next in self.0.get(last).into_iter().flatten().filter(|next| seen.insert((*next).clone()))
                {
                    longer.push(way.iter().cloned().chain([next.clone()]).collect());
                }
            }
            ways = longer;
        }
        None
    }
}

/// Where the walls have a hole: the way through, and why it must not be.
pub fn holes(lock: &Lock) -> Vec<String> {
    let mut holes = Vec::new();
    for wall in WALLS {
        for from in wall.crates {
            for to in wall.unreachable {
                if let Some(way) = lock.way(from, to) {
                    holes.push(format!("Cargo.lock: {}: {}", way.join(" → "), wall.why));
                }
            }
        }
    }
    holes
}

#[test]
fn no_crate_reaches_what_its_wall_forbids() {
    let text =
        std::fs::read_to_string(super::project::root().join("Cargo.lock")).expect("Cargo.lock is readable");
    let lock = Lock::parse(&text);
    for wall in WALLS {
        for name in wall.crates {
            assert!(
                lock.0.contains_key(*name),
                "{name} is not in Cargo.lock: was it renamed? Its walls hold nothing"
            );
        }
    }
    let holes = holes(&lock);
    assert!(holes.is_empty(), "{}", holes.join("\n"));
}

/// A wall that was broken through, directly or by way of another package, is seen, with the way.
#[test]
fn every_wall_catches_a_hole() {
    for wall in WALLS {
        for from in wall.crates {
            for to in wall.unreachable {
                let planted = format!(
                    "[[package]]\nname = \"{from}\"\ndependencies = [\"between 1.0.0\"]\n\
                     [[package]]\nname = \"between\"\ndependencies = [\"{to}\"]\n\
                     [[package]]\nname = \"{to}\"\n"
                );
                let found = holes(&Lock::parse(&planted));
                assert!(
                    found.iter().any(|hole| hole.contains(&format!("{from} → between → {to}"))),
                    "{found:?}"
                );
            }
        }
    }
}
