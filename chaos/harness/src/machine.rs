//! The real machine: threads, the wall clock, the panic hook and Ctrl-C. The one file here that touches them.
//!
//! A seed runs on a thread that nothing has used before, so no thread-local state (hash keys, caches) leaks from one run
//! into the next. Wall time is only shown, and only decides when to stop starting seeds, never what a run does.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Once};
use std::thread;
use std::time::{Duration, Instant};

/// Address space, not memory: a deep chain of unoptimised futures needs more than the default 2 MiB.
const STACK_BYTES: usize = 16 << 20;

/// How often the collecting thread looks at the clock and at Ctrl-C while no result comes.
const TICK: Duration = Duration::from_millis(100);

/// Wall time since a moment.
#[derive(Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "wall time is shown to the user; no run sees it")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    pub(crate) fn elapsed_ms(self) -> u64 {
        u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

thread_local! {
    /// On a thread of ours: what the last panic said. `None` elsewhere, where the usual hook speaks.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `work` on a fresh thread and waits for it. A panic comes back as its text with its place.
pub(crate) fn on_fresh_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    hook_panics();
    let guarded = || {
        PANIC.set(Some(String::new()));
        panic::catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
            PANIC.take().filter(|said| !said.is_empty()).unwrap_or_else(|| words(&*payload))
        })
    };
    thread::scope(|scope| {
        let spawned = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, guarded);
        match spawned.map(thread::ScopedJoinHandle::join) {
            Ok(Ok(result)) => result,
            Ok(Err(payload)) => Err(words(&*payload)),
            Err(error) => Err(format!("no thread for this run: {error}; use a smaller -j")),
        }
    })
}

/// Hands 0, 1, 2, … to `width` threads until `work` has none left for a number or `halt` is set, and gives what they
/// make to `receive` on this thread as it comes; `None` is a moment without a result. Returns when all are done.
pub(crate) fn in_parallel<T: Send>(
    width: usize,
    halt: &AtomicBool,
    work: impl Fn(usize, u64) -> Option<T> + Sync,
    mut receive: impl FnMut(Option<T>),
) {
    let next = AtomicU64::new(0);
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for slot in 0..width {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                while !halt.load(Ordering::SeqCst)
                    && let Some(made) = work(slot, next.fetch_add(1, Ordering::SeqCst))
                    && sender.send(made).is_ok()
                {}
            });
        }
        drop(sender);
        loop {
            match receiver.recv_timeout(TICK) {
                Ok(made) => receive(Some(made)),
                Err(RecvTimeoutError::Timeout) => receive(None),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    });
}

/// As many threads as this machine runs at once.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// A flag that the first Ctrl-C (or SIGTERM) sets; the second ends the process at once.
pub(crate) fn interruption() -> Arc<AtomicBool> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    let handler = move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    };
    // Without a handler Ctrl-C ends the process as it would any other: worse manners, same evidence on disk.
    if let Err(error) = ctrlc::set_handler(handler) {
        tracing::warn!(%error, "Ctrl-C will end this run without a report");
    }
    interrupted
}

/// Keeps a panic of a run off the terminal: it is that run's verdict.
fn hook_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let ours = PANIC.with_borrow_mut(|said| {
                if let Some(said) = said {
                    let place = info.location().map_or_else(String::new, |place| format!(" at {place}"));
                    *said = format!("panic{place}: {}", words(info.payload()));
                }
                said.is_some()
            });
            if !ours {
                usual(info);
            }
        }));
    });
}

fn words(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without words").to_owned()
}
