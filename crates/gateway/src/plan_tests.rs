//! What an agent says counts only for the plan it was sent.

use super::*;
use farplane_types::{HostPlanSpec, PlaneReference};
use tokio::io::{DuplexStream, ReadHalf, WriteHalf};

fn spec() -> Arc<HostPlanSpec> {
    Arc::new(HostPlanSpec {
        plane: PlaneReference {
            kind: "KubernetesCluster".into(),
            name: "c".into(),
            uid: "p".into(),
        },
        listeners: Vec::new(),
        reachable: Vec::new(),
        units: Vec::new(),
    })
}

fn plan_state(uid: &str, generation: i64) -> PlanState {
    PlanState::Plan {
        uid: uid.into(),
        generation,
        spec: spec(),
    }
}

fn releasing(uid: &str) -> PlanState {
    PlanState::Nothing {
        releasing: Some(uid.into()),
    }
}

/// An agent at the other end of a plan stream.
struct Agent {
    lines: LineReader<BufReader<ReadHalf<DuplexStream>>>,
    output: WriteHalf<DuplexStream>,
    states: watch::Sender<PlanState>,
    pending: watch::Receiver<Pending>,
    served: tokio::task::JoinHandle<Result<End, LineError>>,
}

impl Agent {
    fn connect(state: PlanState, orphan: Option<&str>) -> Self {
        let (near, far) = tokio::io::duplex(64);
        let (states, receiver) = watch::channel(state);
        let (slot, pending) = watch::channel(Pending::default());
        let orphan = orphan.map(str::to_owned);
        let served =
            tokio::spawn(
                async move { exchange(near, receiver, &slot, move || orphan.clone()).await },
            );
        let (input, output) = tokio::io::split(far);
        Self {
            lines: LineReader::new(BufReader::new(input), MAX_LINE_BYTES),
            output,
            states,
            pending,
            served,
        }
    }

    async fn hears(&mut self) -> PlanMessage {
        self.lines.next().await.unwrap().unwrap()
    }

    async fn says(&mut self, message: &AgentMessage) {
        lines::send(&mut self.output, message).await.unwrap();
    }

    async fn pending(&mut self, until: impl Fn(&Pending) -> bool) -> Pending {
        self.pending.wait_for(until).await.unwrap().clone()
    }
}

fn report(generation: i64) -> AgentMessage {
    AgentMessage::Report {
        generation,
        applied: true,
        units: Vec::new(),
    }
}

#[tokio::test]
async fn the_state_comes_at_once_and_on_change_and_never_twice() {
    let mut agent = Agent::connect(PlanState::Nothing { releasing: None }, None);
    assert_eq!(agent.hears().await, PlanMessage::Nothing);
    agent
        .states
        .send_replace(PlanState::Nothing { releasing: None });
    agent.states.send_replace(plan_state("x", 1));
    assert!(matches!(
        agent.hears().await,
        PlanMessage::Plan { generation: 1, .. }
    ));
    agent.states.send_replace(plan_state("x", 2));
    assert!(matches!(
        agent.hears().await,
        PlanMessage::Plan { generation: 2, .. }
    ));
}

#[tokio::test]
async fn reports_are_of_the_plan_that_was_sent() {
    let mut agent = Agent::connect(plan_state("x", 2), None);
    agent.hears().await;
    agent.says(&report(7)).await;
    agent.says(&report(2)).await;
    let pending = agent.pending(|it| it.report.is_some()).await;
    let report = pending.report.unwrap();
    assert_eq!((report.plan.as_str(), report.generation), ("x", 2));
}

#[tokio::test]
async fn unknown_messages_and_damaged_lines_are_skipped() {
    let mut agent = Agent::connect(plan_state("x", 1), None);
    agent.hears().await;
    agent
        .output
        .write_all(b"{\"dance\":{}}\nnonsense\n")
        .await
        .unwrap();
    agent.says(&report(1)).await;
    agent.pending(|it| it.report.is_some()).await;
}

#[tokio::test]
async fn clean_releases_the_plan_that_is_being_deleted() {
    let mut agent = Agent::connect(plan_state("x", 1), None);
    agent.hears().await;
    // Speaks of the time before the plan.
    agent.says(&AgentMessage::Clean).await;
    agent.says(&report(1)).await;
    let pending = agent.pending(|it| it.report.is_some()).await;
    assert_eq!(pending.released, None);
    agent.states.send_replace(releasing("x"));
    assert_eq!(agent.hears().await, PlanMessage::Nothing);
    agent.says(&AgentMessage::Clean).await;
    let pending = agent.pending(|it| it.released.is_some()).await;
    assert_eq!(pending.released.as_deref(), Some("x"));
}

#[tokio::test]
async fn a_plan_that_came_and_went_unsent_is_released_by_an_earlier_clean() {
    let mut agent = Agent::connect(PlanState::Nothing { releasing: None }, None);
    agent.hears().await;
    agent.says(&AgentMessage::Clean).await;
    agent.says(&report(1)).await;
    agent
        .says(&AgentMessage::Facts(farplane_types::HostFacts::default()))
        .await;
    agent.pending(|it| it.facts.is_some()).await;
    agent.states.send_replace(releasing("x"));
    let pending = agent.pending(|it| it.released.is_some()).await;
    assert_eq!(pending.released.as_deref(), Some("x"));
}

#[tokio::test]
async fn a_removed_host_ends_with_clean_and_releases_its_orphaned_plan() {
    let mut agent = Agent::connect(PlanState::Removed, Some("left"));
    assert_eq!(agent.hears().await, PlanMessage::Removed);
    agent.says(&AgentMessage::Clean).await;
    // Its word has arrived: an end says so, where a reset would leave it in doubt.
    assert_eq!(agent.lines.next::<PlanMessage>().await.unwrap(), None);
    agent.output.shutdown().await.unwrap();
    assert_eq!(agent.served.await.unwrap().unwrap(), End::Clean);
    assert_eq!(agent.pending.borrow().released.as_deref(), Some("left"));
}

#[tokio::test(start_paused = true)]
async fn a_clean_host_that_keeps_its_stream_is_not_waited_for_long() {
    let mut agent = Agent::connect(PlanState::Removed, None);
    agent.hears().await;
    agent.says(&AgentMessage::Clean).await;
    let start = tokio::time::Instant::now();
    assert_eq!((&mut agent.served).await.unwrap().unwrap(), End::Clean);
    assert_eq!(start.elapsed().as_secs(), FAREWELL.as_secs());
}

#[tokio::test]
async fn an_agent_that_does_not_read_does_not_stop_its_reports() {
    let mut big = spec().as_ref().clone();
    big.reachable = vec!["10.0.0.0/8".into(); 10_000];
    let state = PlanState::Plan {
        uid: "x".into(),
        generation: 1,
        spec: Arc::new(big),
    };
    let mut agent = Agent::connect(state, None);
    agent
        .says(&AgentMessage::Facts(farplane_types::HostFacts::default()))
        .await;
    agent.pending(|it| it.facts.is_some()).await;
}
