//! Listeners in a network namespace of their own: addresses come and go with the plan.

use super::*;
use farplane_types::PlaneReference;
use tokio::io::AsyncReadExt as _;

fn plan(address: &str, port: u16, service: &str) -> HostPlanSpec {
    HostPlanSpec {
        plane: PlaneReference {
            kind: "KubernetesCluster".into(),
            name: "c".into(),
            uid: "p1".into(),
        },
        listeners: vec![Listener {
            address: address.into(),
            port,
            service: service.into(),
        }],
        reachable: Vec::new(),
        units: Vec::new(),
    }
}

#[test]
fn wishes_name_address_service_and_plane() {
    let (wanted, wrong) = wishes(Some(&plan("198.18.0.1", 6443, "api")));
    assert!(wrong.is_empty());
    assert_eq!(wanted[0].address, "198.18.0.1:6443".parse().unwrap());
    assert_eq!(
        (wanted[0].service.as_str(), wanted[0].plane.as_str()),
        ("api", "p1")
    );
    assert_eq!(wishes(None).0, []);
}

#[test]
fn local_programs_never_speak_for_the_host() {
    for service in ["plan", "renew", "repo"] {
        let (wanted, wrong) = wishes(Some(&plan("198.18.0.1", 1, service)));
        assert_eq!((wanted.len(), wrong.len()), (0, 1), "{service}");
    }
    // Images are, since nothing else is behind that service.
    assert_eq!(wishes(Some(&plan("127.0.0.1", 1, "registry"))).0.len(), 1);
    for address in ["0.0.0.0", "::", "224.0.0.1", "localhost", ""] {
        assert_eq!(
            wishes(Some(&plan(address, 1, "api"))).1.len(),
            1,
            "{address}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_hub_connections_are_reset_and_never_hang() {
    let folder = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let plan = plan("127.0.0.1", address.port(), "api");
    let (sender, receiver) = watch::channel(Some(Arc::new(plan)));
    let listeners = Listeners {
        plan: receiver,
        tunnels: Arc::default(),
        board: Arc::new(Board::new("hub:1")),
        agent_dir: folder.path().to_owned(),
        bulk: tokio::runtime::Handle::current(),
    };
    let task = tokio::spawn(listeners.run());
    let mut socket = loop {
        match TcpStream::connect(address).await {
            Ok(socket) => break socket,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let error = socket.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    sender.send_replace(None);
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    task.abort();
}

#[test]
fn addresses_of_the_machine_are_known() {
    assert!(is_local([127, 0, 0, 1].into()));
    assert!(!is_local([192, 0, 2, 77].into()));
}

/// Gives the calling thread a network of its own, with a loopback.
fn own_network() {
    use nix::sched::{CloneFlags, unshare};
    unshare(CloneFlags::CLONE_NEWNET).expect("run the tests as root");
    let up = std::process::Command::new(doctor::program("ip").unwrap())
        .args(["link", "set", "lo", "up"])
        .status();
    assert!(up.unwrap().success());
}

/// Waits for a condition; says which when it does not come true.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = timeout(Duration::from_secs(30), waiting).await;
    assert!(waited.is_ok(), "{what}");
}

// One thread: the network is that of the thread.
#[tokio::test(flavor = "current_thread")]
async fn addresses_come_and_go_with_the_plan_whatever_is_killed() {
    own_network();
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join(RECORD);
    let (plan_sender, receiver) = watch::channel(None);
    let start = || {
        let listeners = Listeners {
            plan: receiver.clone(),
            tunnels: Arc::default(),
            board: Arc::new(Board::new("hub:1")),
            agent_dir: folder.path().to_owned(),
            bulk: tokio::runtime::Handle::current(),
        };
        tokio::spawn(listeners.run())
    };
    let has = |text: &str| is_local(text.parse().unwrap());
    let reset_at = async |text: &str| {
        let mut socket = loop {
            match TcpStream::connect(text).await {
                Ok(socket) => break socket,
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        };
        let error = socket.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    };

    let first = start();
    plan_sender.send_replace(Some(Arc::new(plan("198.18.0.1", 6443, "api"))));
    until("the address is there", || has("198.18.0.1")).await;
    timeout(Duration::from_secs(30), reset_at("198.18.0.1:6443"))
        .await
        .unwrap();
    first.abort();
    _ = first.await;
    assert!(has("198.18.0.1"), "the plan outlives the agent");

    // The next agent listens at what is there, and moves with the plan.
    let second = start();
    timeout(Duration::from_secs(30), reset_at("198.18.0.1:6443"))
        .await
        .unwrap();
    plan_sender.send_replace(Some(Arc::new(plan("198.18.0.2", 6443, "api"))));
    until("only the new address is there", || {
        has("198.18.0.2") && !has("198.18.0.1")
    })
    .await;
    second.abort();
    _ = second.await;

    // The plan ended while no agent ran.
    plan_sender.send_replace(None);
    let third = start();
    until("nothing is left", || !has("198.18.0.2") && !record.exists()).await;
    third.abort();
}

#[tokio::test(flavor = "current_thread")]
async fn an_address_that_was_there_before_is_never_taken_away() {
    own_network();
    let folder = tempfile::tempdir().unwrap();
    let address: IpAddr = [198, 18, 0, 3].into();
    change("add", address).await.unwrap();
    let (wanted, _) = wishes(Some(&plan("198.18.0.3", 6443, "api")));
    let record = Mutex::new(folder.path().join(RECORD));
    let _listener = listen(&wanted[0], &record).await.unwrap();
    remove_addresses(folder.path(), &BTreeSet::new())
        .await
        .unwrap();
    assert!(is_local(address));
}
