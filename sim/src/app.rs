//! An application host: a network card inside turmoil, a process beside it, and how the two live and die together.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use turmoil::Sim;

use crate::{
    Host, HostClock,
    nic::{self, Command},
    process::{Boot, Process, ProcessResult},
    storm::Fate,
};

/// Where a host's process is in its life.
pub(crate) enum State {
    /// Not started yet, or killed.
    Off,
    Running(Box<Process>),
    /// Ended by itself or asked to.
    Ended,
}

/// The end of the command channel that the card takes when it boots.
type Socket = Arc<Mutex<Option<mpsc::UnboundedReceiver<Command>>>>;

pub(crate) struct App {
    pub(crate) name: Arc<str>,
    pub(crate) clock: HostClock,
    pub(crate) state: State,
    /// How many pauses lie on it.
    pub(crate) pauses: u32,
    /// Starts again as soon as it has left.
    comes_back: bool,
    boot: Boot,
    fate: Fate,
    socket: Socket,
    card: mpsc::UnboundedSender<Command>,
    incarnations: u32,
}

impl App {
    pub(crate) fn new(fate: Fate, boot: Boot) -> Self {
        let (card, commands) = mpsc::unbounded_channel();
        let clock = HostClock::new(fate.storm.time.clone());
        Self {
            name: Arc::clone(&fate.host),
            clock,
            state: State::Off,
            pauses: 0,
            comes_back: false,
            boot,
            fate,
            socket: Arc::new(Mutex::new(Some(commands))),
            card,
            incarnations: 0,
        }
    }

    /// Registers the card with turmoil.
    pub(crate) fn register(&self, sim: &mut Sim<'static>) {
        let (socket, fate) = (Arc::clone(&self.socket), self.fate.clone());
        sim.host(&*self.name, move || {
            let commands = socket.lock().unwrap_or_else(PoisonError::into_inner).take();
            let fate = fate.clone();
            async move {
                match commands {
                    Some(commands) => nic::run(commands, fate).await,
                    None => Err("a network card was booted twice with one socket".into()),
                }
            }
        });
    }

    /// Starts the next incarnation. Its card must be running.
    pub(crate) fn start(&mut self) -> std::io::Result<()> {
        let host = Host {
            fate: self.fate.clone(),
            clock: self.clock.clone(),
            card: self.card.clone(),
            incarnation: self.incarnations,
            shutdown: CancellationToken::new(),
        };
        self.incarnations += 1;
        self.comes_back = false;
        self.state = State::Running(Box::new(Process::start(&self.boot, host)?));
        Ok(())
    }

    /// Asks the process to leave; whether there is one that was not asked yet.
    pub(crate) fn stop(&mut self) -> bool {
        let State::Running(process) = &self.state else { return false };
        let asked = process.host.shutdown.is_cancelled();
        process.host.shutdown.cancel();
        !asked
    }

    /// Has the process started again: now, or once it has left as it was asked to.
    pub(crate) fn come_back(&mut self) -> std::io::Result<()> {
        match &self.state {
            State::Ended => self.start(),
            State::Running(process) => {
                self.comes_back = process.host.shutdown.is_cancelled();
                Ok(())
            }
            State::Off => Ok(()),
        }
    }

    /// Runs the process for a tick, unless it is paused. What it ended with, if it did so in this tick.
    pub(crate) fn tick(&mut self, tick: Duration) -> Option<ProcessResult> {
        let State::Running(process) = &mut self.state else { return None };
        if self.pauses > 0 {
            process.miss(tick);
            return None;
        }
        let result = process.tick(tick)?;
        self.state = State::Ended;
        let restarted = if self.comes_back && result.is_ok() { self.start() } else { Ok(()) };
        Some(result.and(restarted.map_err(Into::into)))
    }

    /// Replaces the card after a power cut: turmoil boots the new one.
    pub(crate) fn new_card(&mut self) {
        let (card, commands) = mpsc::unbounded_channel();
        self.card = card;
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(commands);
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }
}
