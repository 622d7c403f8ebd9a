//! Waits at the hub, or at a cluster, for something to become true, and shows how it goes.
//!
//! On a terminal every step has a line that moves; elsewhere a line is printed when a
//! step changes. Interrupting leaves everything there as it is and says so.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use futures::StreamExt as _;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use kube::api::Api;
use kube::runtime::watcher::watch_object;

use crate::failure::{Failure, root};
use crate::objects::Kind;
use crate::output::Output;
use crate::time;

/// Pause before the hub is asked again after it did not answer.
const RETRY: Duration = Duration::from_millis(500);
/// Pause between two looks at what no single watch tells.
const AGAIN: Duration = Duration::from_millis(200);
/// How long one look may take.
const ANSWER: Duration = Duration::from_secs(15);
/// How long looks may fail in a row.
const ABSENCE: Duration = Duration::from_secs(20);

/// How long to wait.
#[derive(Args, Debug, Clone)]
pub(crate) struct Patience {
    /// Wait until it is done, and show how it goes
    #[arg(long)]
    pub wait: bool,
    /// How long to wait at most
    #[arg(long, default_value = "10m", value_parser = time::parse, value_name = "DURATION")]
    pub timeout: Duration,
}

/// A step of something that takes time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Name.
    pub name: String,
    /// How it is.
    pub state: State,
}

/// How a step is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not begun, or begun and stuck, for this reason.
    Waiting(String),
    /// Under way.
    Working(String),
    /// Done, in this time when known.
    Done(Option<Duration>),
}

impl Step {
    /// A step.
    pub fn new(name: impl Into<String>, state: State) -> Self {
        Self {
            name: name.into(),
            state,
        }
    }

    /// What there is to say about it; empty when nothing.
    pub fn words(&self) -> String {
        match &self.state {
            State::Waiting(message) if message.is_empty() => String::new(),
            State::Waiting(message) => format!("waits: {message}"),
            State::Working(message) => message.clone(),
            State::Done(None) => "done".to_owned(),
            State::Done(Some(time)) => format!("done in {}", time::human(*time)),
        }
    }
}

/// Shows steps while they change.
pub(crate) struct Board {
    mode: Mode,
    started: Instant,
    shown: RefCell<BTreeMap<String, Shown>>,
}

enum Mode {
    Live(MultiProgress),
    Plain,
    Silent,
}

struct Shown {
    words: String,
    bar: Option<ProgressBar>,
}

impl Board {
    /// An empty board.
    pub fn new(out: &Output) -> Self {
        let mode = match () {
            () if out.quiet => Mode::Silent,
            () if std::io::stderr().is_terminal() => Mode::Live(MultiProgress::new()),
            () => Mode::Plain,
        };
        Self {
            mode,
            started: Instant::now(),
            shown: RefCell::default(),
        }
    }

    /// Shows a step, unless it is as it was.
    pub fn show(&self, step: &Step) {
        let words = step.words();
        let mut shown = self.shown.borrow_mut();
        let old = shown.get(&step.name);
        if words.is_empty() || old.is_some_and(|old| old.words == words) {
            return;
        }
        let mut bar = old.and_then(|old| old.bar.clone());
        match &self.mode {
            Mode::Silent => {}
            Mode::Plain => eprintln!("{}", plain_line(self.started.elapsed(), step)),
            Mode::Live(all) => {
                let bar = bar.get_or_insert_with(|| all.add(line(&step.name)));
                bar.set_message(words.clone());
                if matches!(step.state, State::Done(_)) {
                    bar.set_style(style("  {prefix:<14} {msg}"));
                    bar.finish();
                } else {
                    bar.enable_steady_tick(Duration::from_millis(120));
                }
            }
        }
        shown.insert(step.name.clone(), Shown { words, bar });
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        for shown in self.shown.borrow().values() {
            if let Some(bar) = shown.bar.as_ref().filter(|bar| !bar.is_finished()) {
                bar.set_style(style("  {prefix:<14} {msg}"));
                bar.abandon();
            }
        }
    }
}

fn line(name: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    bar.set_style(style("{spinner} {prefix:<14} {elapsed:>4} {wide_msg}"));
    bar.set_prefix(name.to_owned());
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .tick_chars("|/-\\ ")
}

/// A line of a log: when, which step, what.
fn plain_line(elapsed: Duration, step: &Step) -> String {
    let tenths = elapsed.as_millis() / 100;
    format!(
        "[{:>4}.{} s] {:<14} {}",
        tenths / 10,
        tenths % 10,
        step.name,
        step.words()
    )
}

/// What a look at an object says.
pub(crate) enum Verdict {
    /// What was waited for is true; these are the last steps.
    Done(Vec<Step>),
    /// Not yet.
    Going(Vec<Step>),
    /// It can never become true.
    Failed(Failure),
}

/// What is waited for, and the words around it.
pub(crate) struct Goal<'a> {
    /// `cluster first in organization demo to be ready`.
    pub what: String,
    /// Command that tells how it goes on.
    pub look: String,
    /// How long at most.
    pub timeout: Duration,
    /// Where it is shown.
    pub out: &'a Output,
}

/// Watches an object until `judge` says that it is done. `None` is an object that is not
/// there.
///
/// A hub that goes away meanwhile is asked again until the time is over.
pub(crate) async fn until<K: Kind>(
    goal: Goal<'_>,
    api: Api<K>,
    name: &str,
    judge: impl Fn(Option<&K>) -> Verdict,
) -> Result<()> {
    let board = Board::new(goal.out);
    let server = K::scope(None).server();
    let mut last = Vec::new();
    let mut objects = std::pin::pin!(watch_object(api, name));
    let end = tokio::time::sleep(goal.timeout);
    let mut end = std::pin::pin!(end);
    loop {
        let object = tokio::select! {
            object = objects.next() => object,
            () = &mut end => return Err(late(&goal, server, &last).into()),
            _ = tokio::signal::ctrl_c() => return Err(interrupted(&goal, server).into()),
        };
        let object = match object {
            Some(Ok(object)) => object,
            Some(Err(error)) => {
                let words = format!("{server} does not answer ({})", root(&error));
                last = vec![Step::new("hub", State::Waiting(words))];
                last.iter().for_each(|step| board.show(step));
                tokio::select! {
                    () = tokio::time::sleep(RETRY) => continue,
                    () = &mut end => return Err(late(&goal, server, &last).into()),
                }
            }
            None => return Err(late(&goal, server, &last).into()),
        };
        match judge(object.as_ref()) {
            Verdict::Failed(failure) => return Err(failure.into()),
            Verdict::Going(steps) => {
                steps.iter().for_each(|step| board.show(step));
                last = steps;
            }
            Verdict::Done(steps) => {
                steps.iter().for_each(|step| board.show(step));
                return Ok(());
            }
        }
    }
}

/// Looks again and again until the look says that it is done.
///
/// A cluster that does not answer meanwhile is asked again for a while.
pub(crate) async fn poll(
    goal: Goal<'_>,
    mut look: impl AsyncFnMut() -> Result<Verdict>,
) -> Result<()> {
    const SERVER: &str = "the cluster";
    let board = Board::new(goal.out);
    let end = Instant::now() + goal.timeout;
    let mut last: Vec<Step>;
    let mut failing_since: Option<Instant> = None;
    loop {
        let looked = tokio::select! {
            looked = tokio::time::timeout(ANSWER, look()) => looked,
            _ = tokio::signal::ctrl_c() => return Err(interrupted(&goal, SERVER).into()),
        };
        let looked = looked
            .unwrap_or_else(|_| Err(Failure::NotReady(format!("{SERVER} does not answer")).into()));
        match looked {
            Ok(Verdict::Done(steps)) => {
                steps.iter().for_each(|step| board.show(step));
                return Ok(());
            }
            Ok(Verdict::Failed(failure)) => return Err(failure.into()),
            Ok(Verdict::Going(steps)) => {
                failing_since = None;
                steps.iter().for_each(|step| board.show(step));
                last = steps;
            }
            Err(error) => {
                let since = *failing_since.get_or_insert_with(Instant::now);
                if since.elapsed() > ABSENCE {
                    return Err(error);
                }
                let words = crate::failure::text(&error);
                last = vec![Step::new("cluster", State::Waiting(words))];
                last.iter().for_each(|step| board.show(step));
            }
        }
        if Instant::now() > end {
            return Err(late(&goal, SERVER, &last).into());
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            _ = tokio::signal::ctrl_c() => return Err(interrupted(&goal, SERVER).into()),
        }
    }
}

fn late(goal: &Goal<'_>, server: &str, last: &[Step]) -> Failure {
    let open: Vec<String> = last
        .iter()
        .filter(|step| !matches!(step.state, State::Done(_)))
        .map(|step| (step.name.as_str(), step.words()))
        .filter(|(_, words)| !words.is_empty())
        .map(|(name, words)| format!("\n  {name}: {words}"))
        .collect();
    Failure::NotReady(format!(
        "waited {} for {}; {server} goes on with it, `{}` tells how it is{}",
        time::human(goal.timeout),
        goal.what,
        goal.look,
        open.concat()
    ))
}

fn interrupted(goal: &Goal<'_>, server: &str) -> Failure {
    Failure::NotReady(format!(
        "no longer waiting for {}; {server} goes on with it, `{}` tells how it is",
        goal.what, goal.look
    ))
}

/// Waits until an object is gone, or another one has its name.
pub(crate) async fn until_gone<K: Kind>(
    goal: Goal<'_>,
    api: Api<K>,
    object: &K,
    state: impl Fn(&K) -> String,
) -> Result<()> {
    let uid = object.meta().uid.clone();
    let name = object.meta().name.clone().unwrap_or_default();
    let step = |state| vec![Step::new("deletion", state)];
    until(goal, api, &name, |now| match now {
        Some(now) if now.meta().uid == uid => Verdict::Going(step(State::Working(state(now)))),
        _ => Verdict::Done(step(State::Done(None))),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_log_tells_when_which_and_what() {
        let step = Step::new("Keys", State::Done(Some(Duration::from_millis(250))));
        assert_eq!(
            plain_line(Duration::from_millis(1_240), &step),
            "[   1.2 s] Keys           done in 0.3 s"
        );
    }

    #[test]
    fn who_waited_in_vain_is_told_what_is_open() {
        let out = Output {
            format: crate::arguments::Format::Table,
            color: false,
            quiet: true,
        };
        let goal = Goal {
            what: "cluster a to be ready".into(),
            look: "farplane cluster describe a".into(),
            timeout: Duration::from_secs(5),
            out: &out,
        };
        let steps = [
            Step::new("Keys", State::Done(None)),
            Step::new("Nodes", State::Waiting("host one is away".into())),
            Step::new("AddOns", State::Waiting(String::new())),
        ];
        let words = late(&goal, "the hub", &steps).to_string();
        assert!(
            words.ends_with("\n  Nodes: waits: host one is away"),
            "{words}"
        );
        assert!(words.contains("5.0 s") && !words.contains("Keys"));
    }
}
