//! A service for tests: entries in accounts, with events that say what is to become of them.
//!
//! The type of an event is its script: `entry` is written down, `refused` waits for the gate, `hopeless` never works,
//! `charge` asks the provider, and so on. The provider does what it is told, and remembers what it was asked.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use stormglass_runtime::{
    ActError, ConsumerName, Context, Decision, Emission, IdempotencyKey, Next, Record, Refusal, RowSet,
    Service, Timer, Topic, Violation,
};

/// Accounts have the names of their events' keys, cut to so many characters: no index holds endless ones.
const NAME_CHARS_MAX: usize = 64;

/// The number that the accounts' constraint forbids.
pub const FORBIDDEN: u64 = 666;

/// An account: what was written down, in the order in which it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub name: String,
    pub entries: Vec<u64>,
}

impl RowSet for Account {
    type Key = String;
    const TABLES: &'static [&'static str] = &["accounts"];

    fn key(&self) -> String {
        self.name.clone()
    }

    fn table(_: &String) -> &str {
        "accounts"
    }

    fn key_text(key: &String) -> String {
        key.clone()
    }

    fn check(&self) -> Result<(), Violation> {
        if self.entries.contains(&FORBIDDEN) { Err(Violation("accounts_without_the_beast")) } else { Ok(()) }
    }
}

/// What an event asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Script {
    /// Write it down.
    Entry,
    /// Write it down once the gate is open; until then refuse it.
    Refused,
    /// Refuse it for ever.
    Hopeless,
    /// Panic until the gate is open.
    Panics,
    /// Write it down and publish it.
    Published,
    /// Write it down in the account `shared` too, which is only found out on the way.
    Joint,
    /// Write it down a second later.
    Timed,
    /// Have the provider do it, then write it down.
    Charge,
}

impl Script {
    /// As it is written in `ce_type`.
    pub fn name(self) -> &'static str {
        match self {
            Script::Entry => "entry",
            Script::Refused => "refused",
            Script::Hopeless => "hopeless",
            Script::Panics => "panics",
            Script::Published => "published",
            Script::Joint => "joint",
            Script::Timed => "timed",
            Script::Charge => "charge",
        }
    }
}

/// An event of the ledger.
#[derive(Clone, Debug)]
pub struct Entry {
    pub script: Script,
    pub account: String,
    pub number: u64,
}

/// A call to the provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    pub number: u64,
}

/// What the provider was asked, and what it is to say.
#[derive(Default)]
pub struct Provider {
    /// Whether refused and panicking events now work.
    pub gate: bool,
    /// Whether everything is unknown for now.
    pub down: bool,
    /// Whether no reply can be taken for now.
    pub balks: bool,
    /// Whether charges are of a version that cannot be read for now.
    pub foreign: bool,
    /// By number: what the next calls are to come to; without, they succeed.
    pub plan: BTreeMap<u64, VecDeque<ActError>>,
    /// By number: whether a call of unknown outcome has had its effect.
    pub happens: BTreeSet<u64>,
    /// How long the next calls take, in order; without, five milliseconds.
    pub pauses: VecDeque<Duration>,
    /// Calls in order.
    pub calls: Vec<(u64, IdempotencyKey)>,
    /// Questions in order.
    pub questions: Vec<u64>,
    done: BTreeMap<IdempotencyKey, u64>,
    /// What was charged under keys that are forgotten.
    forgotten: Vec<u64>,
}

impl Provider {
    /// Forgets every idempotency key, but not what was charged.
    pub fn forget(&mut self) {
        self.forgotten.extend(std::mem::take(&mut self.done).into_values());
    }
}

/// The service.
#[derive(Clone, Default)]
pub struct Ledger {
    provider: Arc<Mutex<Provider>>,
}

impl Ledger {
    /// The provider, to be told or asked.
    pub fn provider(&self) -> MutexGuard<'_, Provider> {
        self.provider.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often the provider was called, and under how many keys.
    pub fn calls(&self) -> (usize, usize) {
        let provider = self.provider();
        let keys: BTreeSet<_> = provider.calls.iter().map(|(_, key)| *key).collect();
        (provider.calls.len(), keys.len())
    }

    /// How often the provider was asked what became of a call.
    pub fn questions(&self) -> usize {
        self.provider().questions.len()
    }

    /// Numbers that the provider has charged, each as often as it did.
    pub fn charged(&self) -> Vec<u64> {
        let provider = self.provider();
        provider.forgotten.iter().chain(provider.done.values()).copied().collect()
    }

    fn write_down(at: &Context<'_, Self>, account: &str, mark: u64) -> Account {
        let mut row = at.rows.get(&account.to_owned()).cloned();
        let row = row.get_or_insert_with(|| Account { name: account.to_owned(), entries: Vec::new() });
        row.entries.push(mark);
        row.clone()
    }

    fn written_down(at: &Context<'_, Self>) -> Decision<Account> {
        let row = Self::write_down(at, &at.event.account, at.event.number);
        Decision { rows: vec![row], ..Decision::default() }
    }
}

/// What `give_up` writes down for an event.
pub fn given_up(number: u64) -> u64 {
    1_000_000 + number
}

/// An event as it is published.
pub fn emission(script: Script, account: &str, number: u64) -> Emission {
    Emission {
        topic: Topic::from("events"),
        key: Bytes::copy_from_slice(account.as_bytes()),
        kind: script.name().to_owned(),
        data: number.to_string().into(),
    }
}

#[async_trait]
impl Service for Ledger {
    type Row = Account;
    type Event = Entry;
    type Call = Charge;
    type Reply = u64;

    fn name(&self) -> ConsumerName {
        ConsumerName::from("ledger")
    }

    fn decode(&self, record: &Record) -> Result<Option<Entry>, Refusal> {
        let kind = record.headers.text("ce_type").unwrap_or_default();
        if kind == "boring" || kind.starts_with("stormglass.") {
            return Ok(None);
        }
        let garbled = |error: serde_json::Error| Refusal::Never(error.to_string());
        let script = serde_json::from_value(kind.into()).map_err(garbled)?;
        let number = serde_json::from_slice(&record.value).map_err(garbled)?;
        let key = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default());
        let account = key.chars().take(NAME_CHARS_MAX).collect();
        if matches!(script, Script::Charge) && self.provider().foreign {
            return Err(Refusal::Later("charge of another version".to_owned()));
        }
        Ok(Some(Entry { script, account, number }))
    }

    fn keys(&self, event: &Entry) -> Vec<String> {
        vec![event.account.clone()]
    }

    fn decide(&self, at: Context<'_, Self>) -> Result<Next<Self>, Refusal> {
        let Entry { script, account, number } = at.event;
        let gate = self.provider().gate;
        let mut decision = Self::written_down(&at);
        match script {
            Script::Entry => {}
            Script::Refused if gate => {}
            Script::Refused => return Err(Refusal::Later("the gate is shut".to_owned())),
            Script::Hopeless => return Err(Refusal::Never("hopeless".to_owned())),
            Script::Panics => assert!(gate, "the gate is shut"),
            Script::Published => {
                decision.events.push(emission(Script::Entry, &format!("{account}-copy"), *number))
            }
            Script::Joint => {
                let row = Self::write_down(&at, "shared", *number);
                if row.entries.len() == 1 && at.rows.get(&"shared".to_owned()).is_none() && *number % 2 == 0 {
                    return Ok(Next::Need(vec!["shared".to_owned()]));
                }
                decision.rows.push(row);
            }
            Script::Timed => {
                let timer =
                    Timer { after: Duration::from_secs(1), event: emission(Script::Entry, account, *number) };
                decision = Decision { timers: vec![timer], ..Decision::default() };
            }
            Script::Charge => {
                return Ok(Next::Ask { call: Charge { number: *number }, rows: Vec::new() });
            }
        }
        Ok(Next::Done(decision))
    }

    async fn act(&self, call: Charge, key: IdempotencyKey) -> Result<u64, ActError> {
        let pause = {
            let mut provider = self.provider();
            provider.calls.push((call.number, key));
            provider.pauses.pop_front().unwrap_or(Duration::from_millis(5))
        };
        tokio::time::sleep(pause).await;
        let mut provider = self.provider();
        if provider.down {
            return Err(ActError::NotSent("the provider is down".to_owned()));
        }
        let planned = provider.plan.get_mut(&call.number).and_then(VecDeque::pop_front);
        let happens = provider.happens.contains(&call.number);
        match planned {
            Some(error) => {
                if matches!(error, ActError::Unknown(_)) && happens {
                    provider.done.insert(key, call.number);
                }
                Err(error)
            }
            None => {
                provider.done.insert(key, call.number);
                Ok(call.number)
            }
        }
    }

    async fn inquire(&self, call: Charge, key: IdempotencyKey) -> Result<Option<u64>, ActError> {
        let mut provider = self.provider();
        provider.questions.push(call.number);
        if provider.down {
            return Err(ActError::NotSent("the provider is down".to_owned()));
        }
        Ok(provider.done.get(&key).copied())
    }

    fn conclude(&self, at: Context<'_, Self>, reply: u64) -> Result<Decision<Account>, Refusal> {
        assert_eq!(reply, at.event.number, "the reply is to another call");
        if self.provider().balks {
            return Err(Refusal::Never("this reply cannot be taken".to_owned()));
        }
        Ok(Self::written_down(&at))
    }

    fn give_up(&self, at: Context<'_, Self>) -> Decision<Account> {
        let row = Self::write_down(&at, &at.event.account, given_up(at.event.number));
        Decision {
            rows: vec![row],
            events: vec![emission(Script::Entry, "given-up", at.event.number)],
            ..Decision::default()
        }
    }
}
