//! `dead`: what an operator sees of dead letters, and does about them. Whoever does it, and why, is logged and published.

use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use stormglass_orders::Row;
use stormglass_runtime::{Audit, Clock, ConsumerName, DeadLetters, Pending, PendingId};
use uuid::Uuid;

use crate::{host::SystemClock, real, settings::Settings, stop::Stop};

/// Letters that are searched for one at most.
const SEARCHED: u32 = 10_000;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum DeadCommand {
    /// Lists the oldest dead letters, one line each.
    List {
        /// Whose.
        #[command(flatten)]
        of: Of,
        /// How many at most.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Shows one with its record.
    Show {
        /// Whose.
        #[command(flatten)]
        of: Of,
        /// The event id that `list` prints first.
        id: Uuid,
    },
    /// Puts them back into the queue, in their place; attempts begin anew.
    Redrive(Hand),
    /// Deletes them for good, and publishes who did it and why on <consumer>.dlq.
    Discard(Hand),
}

/// Whose dead letters.
#[derive(Debug, Args)]
pub struct Of {
    /// The service that gave up.
    #[arg(long)]
    consumer: Consumer,
}

/// What changes dead letters.
#[derive(Debug, Args)]
pub struct Hand {
    #[command(flatten)]
    of: Of,
    /// The event ids that `list` prints first.
    #[arg(required = true)]
    ids: Vec<Uuid>,
    /// Why, for the audit.
    #[arg(long)]
    reason: String,
    /// Who, for the audit.
    #[arg(long, env = "USER")]
    by: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Consumer {
    Orders,
    Payments,
    Inventory,
    Notifications,
}

impl Consumer {
    fn name(self) -> ConsumerName {
        ConsumerName::from(match self {
            Consumer::Orders => "orders",
            Consumer::Payments => "payments",
            Consumer::Inventory => "inventory",
            Consumer::Notifications => "notifications",
        })
    }
}

/// Does it.
///
/// # Errors
/// If the database cannot be reached, or a dead letter does not exist.
pub async fn run(command: &DeadCommand, settings: &Settings) -> Result<(), Stop> {
    match command {
        DeadCommand::List { of, limit } => {
            for letter in list(&letters(of, settings).await?, *limit).await? {
                println!("{}", line(&letter));
            }
            Ok(())
        }
        DeadCommand::Show { of, id } => {
            let letters = letters(of, settings).await?;
            let found = find(&letters, of, std::slice::from_ref(id)).await?;
            found.iter().for_each(show);
            Ok(())
        }
        DeadCommand::Redrive(hand) => change(hand, settings, Fate::Redrive).await,
        DeadCommand::Discard(hand) => change(hand, settings, Fate::Discard).await,
    }
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Redrive,
    Discard,
}

async fn change(hand: &Hand, settings: &Settings, fate: Fate) -> Result<(), Stop> {
    let letters = letters(&hand.of, settings).await?;
    let found = find(&letters, &hand.of, &hand.ids).await?;
    let ids: Vec<PendingId> = found.into_iter().map(|letter| letter.id).collect();
    let audit = Audit { by: hand.by.clone(), reason: hand.reason.clone(), at: SystemClock.now() };
    let (done, word) = match fate {
        Fate::Redrive => (letters.redrive(&ids, &audit).await, "redriven"),
        Fate::Discard => (letters.discard(&ids, &audit).await, "discarded"),
    };
    let count = done.map_err(|failure| Stop::of("dead letters", &failure))?;
    println!("{count} of {} {word}", ids.len());
    Ok(())
}

async fn letters(of: &Of, settings: &Settings) -> Result<DeadLetters<Row>, Stop> {
    let database = real::database(settings).await?;
    Ok(DeadLetters::new(Arc::clone(&database) as _, of.consumer.name()))
}

async fn list(letters: &DeadLetters<Row>, limit: u32) -> Result<Vec<Pending>, Stop> {
    letters.list(limit).await.map_err(|failure| Stop::of("reading dead letters", &failure))
}

/// The letters of these events; each must be there.
async fn find(letters: &DeadLetters<Row>, of: &Of, wanted: &[Uuid]) -> Result<Vec<Pending>, Stop> {
    let dead = list(letters, SEARCHED).await?;
    let mut found = Vec::new();
    for id in wanted {
        let letter = dead.iter().find(|letter| letter.event_id.0 == *id).ok_or_else(|| {
            let consumer = of.consumer.name();
            Stop::Missing(format!(
                "{consumer} has no dead letter of event {id} (among its oldest {SEARCHED}); see `stormglass dead list`"
            ))
        })?;
        found.push(letter.clone());
    }
    Ok(found)
}

/// What a list shows of a letter.
fn line(letter: &Pending) -> String {
    let died = letter.dead_at.map(|at| at.rfc3339()).unwrap_or_default();
    let kind = letter.record.headers.text("ce_type").unwrap_or("(no type)");
    let error = letter.error.as_deref().unwrap_or_default().escape_debug();
    format!("{}  {died}  {kind}  {} attempts  {error}", letter.event_id, letter.attempts)
}

fn show(letter: &Pending) {
    println!("{}", line(letter));
    println!("from {} at offset {}, key {:?}", letter.origin.partition, letter.origin.offset, letter.id.key);
    for (name, value) in &letter.record.headers.0 {
        println!("{name}: {}", value.escape_ascii());
    }
    println!("\n{}", letter.record.value.escape_ascii());
}
