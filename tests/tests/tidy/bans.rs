//! Names that may not stand in some folders: the absences of DESIGN 2 at the level of the source.

use super::project::{Name, Source};

/// Crates that the storm runs: deterministic, without I/O of their own.
pub const STORM: &[&str] = &["system/runtime", "system/orders", "system/embedded", "sim", "chaos"];
const PURE: &[&str] = &["system/runtime", "system/orders", "system/embedded", "sim"];
const GENERIC: &[&str] = &["sim", "chaos/harness"];

struct Ban {
    name: Banned,
    under: &'static [&'static str],
    /// Folders that may all the same.
    except: &'static [&'static str],
    instead: &'static str,
}

enum Banned {
    /// A path, and everything below it.
    Path(&'static str),
    /// A word anywhere in a path.
    Word(&'static str),
}

/// What runs on a real machine and measures it: the command, and examples that time a storm.
const COMMAND: &[&str] = &["chaos/harness", "sim/examples"];

const BANS: &[Ban] = &[
    ban(Banned::Path("tokio::net"), STORM, "a socket of its own: go through a port"),
    ban(Banned::Path("std::net::TcpStream"), STORM, "a socket of its own: go through a port"),
    ban(Banned::Path("std::net::TcpListener"), STORM, "a socket of its own: go through a port"),
    ban(Banned::Path("std::net::UdpSocket"), STORM, "a socket of its own: go through a port"),
    Ban {
        except: COMMAND,
        ..ban(Banned::Word("SystemTime"), STORM, "the machine's clock: use the Clock port")
    },
    Ban {
        except: COMMAND,
        ..ban(Banned::Path("std::time::Instant"), STORM, "the machine's clock: use tokio::time")
    },
    Ban {
        except: COMMAND,
        ..ban(Banned::Path("std::thread"), STORM, "an order that no seed repeats: use tokio tasks")
    },
    ban(Banned::Path("rand"), STORM, "randomness that no seed repeats: use Entropy or Dice"),
    ban(Banned::Path("getrandom"), STORM, "randomness that no seed repeats: use Entropy or Dice"),
    ban(Banned::Word("new_v4"), STORM, "randomness that no seed repeats: derive ids"),
    ban(Banned::Word("now_v7"), STORM, "a clock and randomness that no seed repeats: derive ids"),
    ban(Banned::Word("spawn_blocking"), STORM, "freezes simulated time"),
    ban(Banned::Word("HashMap"), STORM, "an iteration order that no seed repeats: use BTreeMap"),
    ban(Banned::Word("HashSet"), STORM, "an iteration order that no seed repeats: use BTreeSet"),
    ban(Banned::Path("std::fs"), PURE, "I/O of its own: only the command touches the disk"),
    ban(Banned::Path("std::env"), PURE, "another environment would be another run: take configuration"),
    ban(Banned::Path("std::process"), PURE, "I/O of its own: only the command starts processes"),
    ban(Banned::Path("rdkafka"), STORM, "the real broker belongs behind the Broker port"),
    ban(Banned::Path("sqlx"), STORM, "the real database belongs behind the Database port"),
    ban(Banned::Path("stormglass_orders"), GENERIC, "the storm knows no domain"),
    ban(Banned::Path("stormglass_chaos"), GENERIC, "the storm knows no domain"),
];

const fn ban(name: Banned, under: &'static [&'static str], instead: &'static str) -> Ban {
    Ban { name, under, except: &[], instead }
}

/// The names that this file holds and may not.
pub fn named(source: &Source) -> Vec<(usize, String)> {
    let inside = |folders: &[&str]| folders.iter().any(|folder| source.is_under(folder));
    let bans: Vec<&Ban> = BANS.iter().filter(|ban| inside(ban.under) && !inside(ban.except)).collect();
    let hits = |name: &Name| {
        let ban = bans.iter().find(|ban| ban.name.is_in(&name.path))?;
        Some((name.line, format!("`{}`: {}", name.path, ban.instead)))
    };
    source.names.iter().filter_map(hits).collect()
}

impl Banned {
    fn is_in(&self, path: &str) -> bool {
        match self {
            Banned::Path(banned) => {
                path.strip_prefix(banned).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            }
            Banned::Word(banned) => path.split("::").any(|segment| segment == *banned),
        }
    }
}

/// Every ban, in every folder it holds for, catches its own name in a use, a path and a macro.
#[test]
fn every_ban_catches_its_name() {
    for ban in BANS {
        let path = match ban.name {
            Banned::Path(path) | Banned::Word(path) => path,
        };
        for folder in ban.under.iter().filter(|folder| !ban.except.contains(folder)) {
            for planted in [
                format!("//! x\nuse {path}::{{self, x}};"),
                format!("//! x\nfn f() {{ {path}::x(); }}"),
                format!("//! x\nfn f() {{ m!(a: {path}::x, 1); }}"),
            ] {
                let source = Source::parse(&format!("{folder}/src/x.rs"), &planted).expect("plants parse");
                assert!(!named(&source).is_empty(), "{path} in {folder} goes unseen in {planted}");
            }
        }
    }
}

#[test]
fn names_that_only_look_alike_are_left_alone() {
    let text = "//! x\nuse tokio::time::Instant;\nuse turmoil::net::TcpStream;\nfn rand_like(operand: u8) {}";
    let source = Source::parse("sim/src/x.rs", text).expect("plants parse");
    assert!(named(&source).is_empty());
}
