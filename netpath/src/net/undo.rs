//! Taking back the steps of an operation that fails halfway.

use std::{fmt::Display, future::Future};

use futures::future::BoxFuture;

/// How to take back one step.
type Step = Box<dyn FnOnce() -> BoxFuture<'static, Result<(), String>> + Send>;

/// Some steps could not be taken back; what is left, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not undo: {}", failures.join("; "))]
pub struct UndoFailed {
    /// One line a step: what undoes it, and the reason it failed.
    pub failures: Vec<String>,
}

/// The steps done so far, each with its inverse; last in, first out.
///
/// Dropped without [`commit`](Self::commit) or [`rollback`](Self::rollback), as happens when the future that holds it
/// is cancelled (a client that hangs up), it rolls back on the current tokio runtime.
#[derive(Default)]
#[must_use = "commit it, or what was done is undone"]
pub struct Undo {
    steps: Vec<(String, Step)>,
}

impl Undo {
    /// No steps yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers the inverse of a step. `what` says what the inverse does, as in `remove link eth0`.
    pub fn push<F, Fut, E>(&mut self, what: impl Into<String>, inverse: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        let step: Step = Box::new(move || {
            let running = inverse();
            Box::pin(async move { running.await.map_err(|error| error.to_string()) })
        });
        self.steps.push((what.into(), step));
    }

    /// Takes over another operation's steps, to be undone before those already here.
    pub fn append(&mut self, mut later: Undo) {
        self.steps.append(&mut later.steps);
    }

    /// The operation is done: nothing will be undone.
    pub fn commit(mut self) {
        self.steps.clear();
    }

    /// Undoes every step, the last one first; goes on after a failure and reports all of them.
    pub async fn rollback(mut self) -> Result<(), UndoFailed> {
        let failures = run(std::mem::take(&mut self.steps)).await;
        if failures.is_empty() { Ok(()) } else { Err(UndoFailed { failures }) }
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let steps = std::mem::take(&mut self.steps);
        if steps.is_empty() {
            return;
        }
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(async move {
                    for failure in run(steps).await {
                        tracing::error!("an operation was cancelled, and could not be undone: {failure}");
                    }
                });
            }
            Err(_) => {
                for (what, _) in steps {
                    tracing::error!(
                        "an operation was cancelled outside the runtime, and this is left to do: {what}"
                    );
                }
            }
        }
    }
}

/// Runs the inverses, last first; what failed, a line each.
async fn run(mut steps: Vec<(String, Step)>) -> Vec<String> {
    let mut failures = Vec::new();
    while let Some((what, inverse)) = steps.pop() {
        if let Err(reason) = inverse().await {
            failures.push(format!("{what}: {reason}"));
        }
    }
    failures
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{Arc, Mutex},
    };

    use super::*;

    type Log = Arc<Mutex<Vec<&'static str>>>;

    fn note(undo: &mut Undo, log: &Log, what: &'static str) {
        let log = log.clone();
        undo.push(what, move || async move {
            log.lock().unwrap().push(what);
            Ok::<_, Infallible>(())
        });
    }

    #[tokio::test]
    async fn rolls_back_last_first_and_reports_all_failures() {
        let (log, mut undo) = (Log::default(), Undo::new());
        note(&mut undo, &log, "first");
        undo.push("remove b", || async { Err("busy") });
        note(&mut undo, &log, "third");
        undo.push("remove d", || async { Err("gone") });
        let failed = undo.rollback().await.unwrap_err();
        assert_eq!(*log.lock().unwrap(), ["third", "first"]);
        assert_eq!(failed.to_string(), "could not undo: remove d: gone; remove b: busy");
    }

    #[tokio::test]
    async fn commit_keeps_everything() {
        let (log, mut undo) = (Log::default(), Undo::new());
        note(&mut undo, &log, "never");
        undo.commit();
        tokio::task::yield_now().await;
        assert!(log.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn appended_steps_go_first() {
        let (log, mut undo, mut later) = (Log::default(), Undo::new(), Undo::new());
        note(&mut undo, &log, "outer");
        note(&mut later, &log, "inner");
        undo.append(later);
        undo.rollback().await.unwrap();
        assert_eq!(*log.lock().unwrap(), ["inner", "outer"]);
    }

    #[tokio::test]
    async fn a_cancelled_operation_is_undone() {
        let log = Log::default();
        let operation = {
            let log = log.clone();
            async move {
                let mut undo = Undo::new();
                note(&mut undo, &log, "undone");
                std::future::pending::<()>().await;
                undo.commit();
            }
        };
        let task = tokio::spawn(operation);
        tokio::task::yield_now().await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        while log.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}
