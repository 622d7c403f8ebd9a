//! What is said to the hub of a plan, and when.

use super::*;
use crate::units::Report;
use farplane_types::{HostPlanSpec, PlaneReference};
use std::sync::Mutex;
use tokio::io::DuplexStream;

/// An engine whose states the test sets.
struct Script {
    wanted: Mutex<Vec<Wanted>>,
    state: watch::Sender<State>,
    board: Board,
}

impl Host for Script {
    fn want(&self, wanted: Wanted) {
        self.wanted.lock().unwrap().push(wanted);
    }

    fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }
}

fn report(generation: i64, applied: bool) -> State {
    State::Report(Report {
        generation,
        applied,
        units: Vec::new(),
    })
}

fn plan(generation: i64) -> PlanMessage {
    let plane = PlaneReference {
        kind: "KubernetesCluster".into(),
        name: "c".into(),
        uid: "p1".into(),
    };
    PlanMessage::Plan {
        generation,
        spec: Box::new(HostPlanSpec {
            plane,
            listeners: Vec::new(),
            reachable: Vec::new(),
            units: Vec::new(),
        }),
    }
}

/// The hub's end of a stream whose other end is served like an agent's.
struct Hub {
    lines: LineReader<BufReader<tokio::io::ReadHalf<DuplexStream>>>,
    output: tokio::io::WriteHalf<DuplexStream>,
}

impl Hub {
    async fn hears(&mut self) -> AgentMessage {
        self.lines.next().await.unwrap().unwrap()
    }

    async fn says(&mut self, message: &PlanMessage) {
        lines::send(&mut self.output, message).await.unwrap();
    }
}

fn start() -> (
    Hub,
    Arc<Script>,
    watch::Sender<HostFacts>,
    tokio::task::JoinHandle<()>,
) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let script = Arc::new(Script {
        wanted: Mutex::default(),
        state: watch::Sender::new(State::Unknown),
        board: Board::new("hub"),
    });
    let (facts, seen) = watch::channel(HostFacts::default());
    let host = Arc::clone(&script);
    let task = tokio::spawn(async move {
        let (input, output) = tokio::io::split(near);
        let (sender, said) = watch::channel(Said::NotYet);
        tokio::select! {
            ended = down(input, host.as_ref(), &sender) => panic!("{ended:?}"),
            ended = up(output, host.state(), seen, said, host.board.subscribe()) => ended.unwrap(),
        }
    });
    let (input, output) = tokio::io::split(far);
    let lines = LineReader::new(BufReader::new(input), MAX_LINE_BYTES);
    (Hub { lines, output }, script, facts, task)
}

#[tokio::test]
async fn facts_come_first_and_reports_once_the_hub_has_spoken() {
    let (mut hub, script, facts, _task) = start();
    script.state.send_replace(report(1, true));
    assert!(matches!(hub.hears().await, AgentMessage::Facts(_)));
    hub.says(&plan(2)).await;
    assert!(matches!(
        hub.hears().await,
        AgentMessage::Report { generation: 1, .. }
    ));
    script.state.send_replace(report(2, false));
    assert!(matches!(
        hub.hears().await,
        AgentMessage::Report { generation: 2, .. }
    ));
    facts.send_modify(|facts| facts.vcpus = 7);
    match hub.hears().await {
        AgentMessage::Facts(facts) => assert_eq!(facts.vcpus, 7),
        other => panic!("{other:?}"),
    }
    assert_eq!(script.wanted.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_listener_that_is_not_there_is_told() {
    let (mut hub, script, _facts, _task) = start();
    script.state.send_replace(report(1, true));
    assert!(matches!(hub.hears().await, AgentMessage::Facts(_)));
    hub.says(&plan(1)).await;
    let listeners = |message: AgentMessage| match message {
        AgentMessage::Report { units, .. } => {
            let of = |it: &UnitStatus| it.unit.starts_with("listener/");
            units.into_iter().filter(of).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(listeners(hub.hears().await), []);
    let taken = Some("it is taken".to_owned());
    script.board.problem("listener 198.18.0.1:6443", taken);
    script
        .board
        .problem("certificate", Some("other".to_owned()));
    let told = listeners(hub.hears().await);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].unit, "listener/198.18.0.1:6443");
    assert_eq!(told[0].message, "it is taken");
    script.board.problem("listener 198.18.0.1:6443", None);
    assert_eq!(listeners(hub.hears().await), []);
}

#[tokio::test]
async fn clean_is_the_answer_to_nothing_and_never_to_a_plan() {
    let (mut hub, script, facts, _task) = start();
    script.state.send_replace(State::Clean);
    assert!(matches!(hub.hears().await, AgentMessage::Facts(_)));
    hub.says(&plan(1)).await;
    while script.wanted.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    facts.send_modify(|facts| facts.vcpus = 1);
    assert!(
        matches!(hub.hears().await, AgentMessage::Facts(_)),
        "no word of being clean"
    );
    hub.says(&PlanMessage::Nothing).await;
    assert_eq!(hub.hears().await, AgentMessage::Clean);
}

#[tokio::test]
async fn a_removed_host_says_that_it_is_clean_and_ends() {
    let (mut hub, script, _facts, task) = start();
    script.state.send_replace(report(1, true));
    assert!(matches!(hub.hears().await, AgentMessage::Facts(_)));
    hub.says(&PlanMessage::Removed).await;
    assert!(matches!(hub.hears().await, AgentMessage::Report { .. }));
    script.state.send_replace(State::Clean);
    assert_eq!(hub.hears().await, AgentMessage::Clean);
    task.await.unwrap();
}

#[tokio::test]
async fn what_a_newer_hub_says_is_skipped() {
    use tokio::io::AsyncWriteExt as _;
    let (mut hub, script, _facts, _task) = start();
    hub.output
        .write_all(b"{\"dance\":{}}\nnonsense\n")
        .await
        .unwrap();
    hub.says(&PlanMessage::Nothing).await;
    while script.wanted.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let wanted = script.wanted.lock().unwrap();
    assert!(matches!(wanted.as_slice(), [Wanted::Nothing]));
}
