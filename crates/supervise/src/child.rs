//! The task that owns a process.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use rand::Rng as _;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::pause::{Pauses, before_asking};
use crate::process::ProcessId;
use crate::running::{Running, former};
use crate::status::{Exit, State, Status};
use crate::{Places, Program, launch, log, record};

/// Handle of a supervised program. Dropping it is [`Child::detach`].
pub struct Child {
    status: watch::Receiver<Status>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Child {
    /// Adopts the process of an earlier supervisor when it has the same command and
    /// environment; else ends it, when there is one, and starts the program. `changed`
    /// is told of every change of the status. A failure is in the status, and is tried
    /// again.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(program: Program, places: &Places, changed: Arc<Notify>) -> Self {
        let (sender, status) = watch::channel(Status {
            name: program.name.clone(),
            state: State::Waiting,
            pid: None,
            ready: false,
            restarts: 0,
            last_exit: None,
            log: launch::log_path(places, &program.name),
        });
        let stop = CancellationToken::new();
        let owner = Owner {
            program,
            places: places.clone(),
            sender,
            changed,
            stop: stop.clone(),
        };
        let task = tokio::spawn(owner.run());
        Self { status, stop, task }
    }

    /// What is known now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Follows the status.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Ends the process and waits for its end: SIGTERM, and SIGKILL after the grace. Its
    /// record is removed. The signals go to the process only, not to what it started.
    pub async fn stop(mut self) {
        self.stop.cancel();
        // Broken off only by a panic, which the runtime has told of.
        let _ = (&mut self.task).await;
    }

    /// Stops supervising; the process runs on and stays recorded.
    pub fn detach(self) {}
}

impl Drop for Child {
    fn drop(&mut self) {
        // Never between a start and its record: there is no await in between.
        self.task.abort();
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status();
        formatter
            .debug_struct("Child")
            .field("name", &status.name)
            .field("state", &status.state)
            .field("pid", &status.pid)
            .finish_non_exhaustive()
    }
}

struct Owner {
    program: Program,
    places: Places,
    sender: watch::Sender<Status>,
    changed: Arc<Notify>,
    stop: CancellationToken,
}

impl Owner {
    async fn run(self) {
        if !launch::is_file_name(&self.program.name) {
            let name = self.program.name.clone();
            let exit = Exit::NotStarted(Error::Name { name }.words());
            return self.tell(|status| {
                status.state = State::Stopped;
                status.last_exit = Some(exit);
            });
        }
        let mut pauses = Pauses::new();
        let mut adopt = true;
        loop {
            let begun = Instant::now();
            let exit = match self.begin(&mut adopt).await {
                Ok(Some(running)) => self.live(running).await,
                Ok(None) => None,
                Err(error) => Some(Exit::NotStarted(error.words())),
            };
            let Some(exit) = exit else { return };
            let pause = pauses.after(begun.elapsed(), rand::rng().random());
            tracing::warn!(process = self.program.name, %exit, ?pause, "process ended");
            self.tell(|status| {
                (status.state, status.pid, status.ready) = (State::Ended, None, false);
                status.last_exit = Some(exit);
            });
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// A process to look after. None: the program was asked to stop and does not run.
    async fn begin(&self, adopt: &mut bool) -> Result<Option<Running>, Error> {
        if *adopt {
            let running = self.take_over().await?;
            *adopt = false;
            if running.is_some() {
                return Ok(running);
            }
        }
        if self.stop.is_cancelled() {
            self.forget();
            return Ok(None);
        }
        let running = launch::launch(&self.program, &self.places)?;
        let again = self.sender.borrow().last_exit.is_some();
        self.tell(|status| status.restarts += u32::from(again));
        Ok(Some(running))
    }

    /// The process of an earlier supervisor, unless it is one of another command or
    /// environment, which is ended.
    async fn take_over(&self) -> Result<Option<Running>, Error> {
        let wanted = launch::digest(&self.program);
        let mut same = None;
        for (id, digest) in former(&self.places, &self.program.name) {
            if same.is_none() && digest == wanted {
                same = Some((id, digest));
                continue;
            }
            let mut other = Running::Adopted(id);
            self.tell_stopping(id);
            if !other.end(self.program.grace).await {
                return Err(Error::Stuck { pid: id.pid });
            }
        }
        let Some((id, digest)) = same else {
            return Ok(None);
        };
        let (name, records) = (&self.program.name, &self.places.records);
        tracing::info!(process = name, pid = id.pid, "adopted");
        if record::Record::live(records, name).is_none()
            && let Err(error) = record::Record::new(id, &digest).save(records, name)
        {
            tracing::warn!(process = name, error = error.words(), "not recorded");
        }
        Ok(Some(Running::Adopted(id)))
    }

    /// From the start to the end of a process. None: it was ended on request.
    async fn live(&self, mut running: Running) -> Option<Exit> {
        let id = running.id();
        self.tell(|status| {
            (status.state, status.pid, status.ready) = (State::Starting, Some(id.pid), false);
        });
        let exit = tokio::select! {
            exit = running.wait() => Some(exit),
            () = self.stop.cancelled() => None,
            never = self.watch() => match never {},
        };
        if exit.is_none() {
            self.tell_stopping(id);
            if running.end(self.program.grace).await {
                self.forget();
            }
        }
        exit
    }

    /// Asks again and again whether the process is ready.
    async fn watch(&self) -> Infallible {
        let mut unready = Instant::now();
        let mut was_ready = false;
        loop {
            let ready = match &self.program.check {
                Some(check) => check.ask().await,
                None => true,
            };
            if was_ready && !ready {
                unready = Instant::now();
            }
            self.tell(|status| {
                status.ready = ready;
                status.state = match (ready, was_ready || status.state == State::Failing) {
                    (true, _) => State::Ready,
                    (false, true) => State::Failing,
                    (false, false) => State::Starting,
                };
            });
            was_ready = ready;
            self.bound_log().await;
            tokio::time::sleep(before_asking(ready, unready.elapsed())).await;
        }
    }

    async fn bound_log(&self) {
        let path = launch::log_path(&self.places, &self.program.name);
        let bound = tokio::task::spawn_blocking(move || log::bound(&path, log::BYTES));
        if let Ok(Err(error)) = bound.await {
            tracing::warn!(process = self.program.name, %error, "log not bounded");
        }
    }

    fn forget(&self) {
        record::remove(&self.places.records, &self.program.name);
        self.tell(|status| {
            (status.state, status.pid, status.ready) = (State::Stopped, None, false);
        });
    }

    fn tell_stopping(&self, id: ProcessId) {
        self.tell(|status| {
            (status.state, status.pid, status.ready) = (State::Stopping, Some(id.pid), false);
        });
    }

    fn tell(&self, change: impl FnOnce(&mut Status)) {
        let changed = self.sender.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            *status != before
        });
        if changed {
            self.changed.notify_one();
        }
    }
}
