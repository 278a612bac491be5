//! A host's process: a tokio runtime of its own, stepped tick by tick beside turmoil.
//!
//! It is apart from the host's turmoil runtime because turmoil cannot leave out one host's ticks, and a pause that
//! lets timers run on is none. Paused, a process is not stepped: no task moves, no timer fires. When it continues,
//! its clock jumps by all the time it missed, so every timer that fell due is due at once, together with whatever
//! arrived meanwhile: what SIGSTOP and SIGCONT do. Killed, it is dropped after its network card was cut off, so no
//! destructor is heard by anyone.

use std::{error::Error, future::Future, pin::Pin, time::Duration};

use futures::FutureExt;
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
};

use crate::{Dice, Host};

/// What a process ends with.
pub type ProcessResult = Result<(), Box<dyn Error + Send + Sync>>;

/// Starts a process on a host.
pub(crate) type Boot = Box<dyn Fn(Host) -> Pin<Box<dyn Future<Output = ProcessResult> + Send>>>;

pub(crate) struct Process {
    runtime: Runtime,
    main: JoinHandle<ProcessResult>,
    missed: Duration,
    pub(crate) host: Host,
}

impl Process {
    pub(crate) fn start(boot: &Boot, host: Host) -> std::io::Result<Self> {
        let runtime = runtime(host.dice(), host.incarnation())?;
        let main = {
            let _entered = runtime.enter();
            runtime.spawn(boot(host.clone()))
        };
        Ok(Self { runtime, main, missed: Duration::ZERO, host })
    }

    /// Lets a tick pass while stopped.
    pub(crate) fn miss(&mut self, tick: Duration) {
        self.missed += tick;
    }

    /// Runs for a tick. What it ended with, once it has.
    pub(crate) fn tick(&mut self, tick: Duration) -> Option<ProcessResult> {
        let missed = std::mem::take(&mut self.missed);
        self.runtime.block_on(async {
            if missed > Duration::ZERO {
                tokio::time::advance(missed).await;
            }
            tokio::time::sleep(tick).await;
        });
        let ended = if self.main.is_finished() { (&mut self.main).now_or_never() } else { None };
        ended.map(|joined| joined.unwrap_or_else(|error| Err(error.into())))
    }
}

/// A runtime whose clock moves only when we step it, and whose choices depend on the seed alone.
fn runtime(dice: Dice, incarnation: u32) -> std::io::Result<Runtime> {
    let mut builder = Builder::new_current_thread();
    // Without the cfg `select!` draws from the system's randomness; the `chaos` binary refuses to run then.
    #[cfg(tokio_unstable)]
    {
        let seed = dice.word("tokio", 0, incarnation).to_be_bytes();
        builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed));
    }
    #[cfg(not(tokio_unstable))]
    let _ = (dice, incarnation);
    let runtime = builder.enable_time().start_paused(true).build()?;
    // tokio's timers count whole milliseconds from the runtime's start; this puts "now" on one of them.
    runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
    Ok(runtime)
}
