//! Running a list of cases on one kind of system, and what came of each.

use std::{
    any::Any,
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures::FutureExt;

/// What a case is run as.
pub type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A case: its name, and how it is run on a kind of system.
pub struct Case<K> {
    pub name: &'static str,
    pub run: fn(K) -> Running,
}

impl<K> Clone for Case<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Case<K> {}

/// A function of a list as a [`Case`].
macro_rules! case_of {
    ($module:ident::$inner:ident::$case:ident, $kind:ty) => {
        Case {
            name: stringify!($case),
            run: |kind: $kind| Box::pin(async move { $module::$inner::$case(&*kind).await }),
        }
    };
}
pub(crate) use case_of;

/// The names of the cases that did not get the verdict that they assert, each with why.
pub type Verdicts = BTreeMap<&'static str, Result<(), String>>;

/// Whether a case is asked for: `CONTRACT_CASE=d8,b14` runs those whose names begin so.
pub fn is_wanted(name: &str) -> bool {
    let wanted = std::env::var("CONTRACT_CASE").unwrap_or_default();
    wanted.split(',').any(|prefix| name.starts_with(prefix))
}

/// Awaits one case; a panic is its verdict.
pub async fn verdict(running: Running) -> Result<(), String> {
    AssertUnwindSafe(running).catch_unwind().await.map_err(|panic| message(&*panic))
}

/// What a panic said.
pub fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

/// Held by a test that must not have another of this suite beside it: cases about time want the machine for themselves.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs every case on simulated time inside this process.
pub fn embedded<K: Clone + Send + 'static>(cases: &[Case<K>], kind: &K) -> Verdicts {
    let wanted = cases.iter().filter(|case| is_wanted(case.name));
    let run = |case: &Case<K>| {
        let (case, kind) = (*case, kind.clone());
        let verdict = on_a_thread(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.expect("a runtime starts").block_on(verdict((case.run)(kind)))
        });
        (case.name, verdict.and_then(|verdict| verdict))
    };
    wanted.map(run).collect()
}

/// Runs `work` on a thread of its own, whose panic is an error.
pub fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "turmoil keeps thread-local state: each world on a fresh thread"
    )]
    let thread = std::thread::spawn(work);
    thread.join().map_err(|panic| message(&*panic))
}
