//! Calls through the router: which instance they get, and what clients see when something fails.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use farplane_functions_types::wire::Failure;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::Event;
use crate::testing::{Scripted, World, send, until};

#[tokio::test]
async fn a_cold_call_asks_and_a_warm_one_does_not() {
    let instance = Scripted::start().await;
    let world = World::start(json!({}), &[&instance]).await;
    let (status, headers, body) = world.get("/f/a?b=c").await;
    assert_eq!(status, 200);
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert!(body.starts_with("/a?b=c\n"), "{body}");
    for line in [
        "x-fission-function-name: f",
        "x-fission-function-namespace: default",
        "x-fission-function-uid: u",
        "x-fission-function-resourceversion: 7",
        "x-fission-full-url: /f/a?b=c",
        "x-forwarded-host: localhost",
        "x-forwarded-for: 127.0.0.1",
        "forwarded: for=127.0.0.1;host=\"localhost\";proto=http",
    ] {
        assert!(body.lines().any(|it| it == line), "{line}: {body}");
    }
    assert!(body.contains("x-fission-request-id: "));
    for _ in 0..5 {
        assert_eq!(world.get("/f").await.0, 200);
    }
    assert_eq!((world.executor.asked(), instance.calls()), (1, 6));
    let metrics = world.router.metrics.text();
    let labels = r#"function_name="f",function_namespace="default""#;
    for line in [
        format!(
            r#"fission_function_calls_total{{{labels},path="/f",method="GET",code="200",function_version=""}} 6"#
        ),
        format!("fission_function_cold_starts_total{{{labels}}} 1"),
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn a_burst_shares_the_instances_that_there_may_be() {
    let instances = [
        Scripted::start().await,
        Scripted::start().await,
        Scripted::start().await,
    ];
    let world = World::start(json!({"concurrency": 3}), &instances.each_ref()).await;
    let running = || instances.iter().map(|it| it.running()).sum::<usize>();
    let calls = futures::future::join_all((0..10).map(|_| world.get("/f/gate")));
    let open = async {
        until("three calls run", || running() == 3).await;
        for instance in &instances {
            instance.gate.add_permits(10);
        }
    };
    let (answers, ()) = tokio::join!(calls, open);
    assert!(answers.iter().all(|(status, ..)| *status == 200));
    assert_eq!(world.executor.asked(), 3);
    assert_eq!(instances.iter().map(|it| it.calls()).sum::<usize>(), 10);
    assert!(
        instances
            .iter()
            .all(|it| it.most.load(Ordering::SeqCst) == 1)
    );
}

#[tokio::test]
async fn an_instance_that_refuses_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = listener.local_addr().unwrap().to_string();
    drop(listener);
    let instance = Scripted::start().await;
    let world = World::start(json!({}), &[&instance]).await;
    world.instance(&dead);
    assert_eq!(world.get("/f").await.0, 200);
    assert_eq!(world.get("/f").await.0, 200);
    assert_eq!((world.executor.asked(), instance.calls()), (1, 2));
    // The executor is not to name it again.
    assert_eq!(world.executor.asked.lock().unwrap()[0].known, [dead]);
}

#[tokio::test]
async fn a_call_of_which_something_was_sent_is_not_sent_again() {
    let instance = Scripted::start().await;
    let world = World::start(json!({}), &[&instance]).await;
    let (status, headers, body) = world.get("/f/die").await;
    assert_eq!(status, 502);
    assert_eq!(headers["x-fission-component"], "function");
    let failure: Failure = serde_json::from_str(&body).unwrap();
    assert_eq!(failure.component, "function");
    assert!(!failure.request_id.is_empty());
    assert_eq!(instance.calls(), 1);
    assert_eq!(world.get("/f").await.0, 200);
}

#[tokio::test]
async fn a_function_that_does_not_answer_is_given_up() {
    let instance = Scripted::start().await;
    let spec = json!({"functionTimeout": 1, "concurrency": 1});
    let world = World::start(spec, &[&instance]).await;
    let (status, headers, body) = world.get("/f/never").await;
    assert_eq!(status, 504, "{body}");
    assert_eq!(headers["x-fission-component"], "function");
    until("the instance notices", || instance.running() == 0).await;
    assert_eq!(world.get("/f").await.0, 200);
}

#[tokio::test]
async fn the_place_of_a_client_that_is_gone_is_free() {
    let instance = Scripted::start().await;
    let world = World::start(json!({"concurrency": 1}), &[&instance]).await;
    let mut client = TcpStream::connect(world.public).await.unwrap();
    client
        .write_all(b"GET /f/never HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    until("the call runs", || instance.running() == 1).await;
    drop(client);
    assert_eq!(world.get("/f").await.0, 200);
    assert_eq!(world.executor.asked(), 1);
}

#[tokio::test]
async fn a_socket_has_its_place_until_it_is_closed() {
    let instance = Scripted::start().await;
    let world = World::start(json!({"concurrency": 1}), &[&instance]).await;
    let mut socket = TcpStream::connect(world.public).await.unwrap();
    let request =
        b"GET /f/socket HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n";
    socket.write_all(request).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.to_lowercase().contains("upgrade: echo"), "{head}");
    socket.write_all(b"hello").await.unwrap();
    let mut echoed = [0; 5];
    socket.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"hello");
    let mut waiting = Box::pin(world.get("/f"));
    let slot = world.router.labelled("default", "f", "").unwrap();
    tokio::select! {
        biased;
        answer = &mut waiting => panic!("there was no place, but {answer:?}"),
        () = until("a call waits", || slot.waiting() == 1) => {}
    }
    drop(socket);
    assert_eq!(waiting.await.0, 200);
}

#[tokio::test]
async fn what_the_executor_says_reaches_the_client() {
    let world = World::start(json!({}), &[]).await;
    let request = Request::get("/f").header("x-fission-request-id", "my-id");
    let (status, headers, body) = send(world.public, request.body(Full::default()).unwrap()).await;
    assert_eq!(status, 500);
    assert_eq!(headers["x-fission-component"], "environment");
    let failure: Failure = serde_json::from_str(&body).unwrap();
    assert_eq!(failure.reason, "the code does not import");
    assert_eq!(failure.request_id, "my-id");
}

#[tokio::test]
async fn calls_that_wait_for_a_deleted_function_end() {
    let instance = Scripted::start().await;
    let world = World::start(json!({"concurrency": 1}), &[&instance]).await;
    let slot = world.router.labelled("default", "f", "").unwrap();
    let first = world.get("/f/gate");
    let second = async {
        until("the first runs", || instance.running() == 1).await;
        world.get("/f/gate").await
    };
    let delete = async {
        // The first waits as well, until it has its instance.
        let second = || instance.running() == 1 && slot.waiting() == 1;
        until("the second waits", second).await;
        let (namespace, name) = ("default".to_owned(), "f".to_owned());
        world.router.apply(Event::FunctionGone { namespace, name });
    };
    let free = async {
        until("the function is gone", || {
            world.router.labelled("default", "f", "").is_err()
        })
        .await;
        instance.gate.add_permits(1);
    };
    let (first, second, (), ()) = tokio::join!(first, second, delete, free);
    assert_eq!(
        (first.0, second.0),
        (StatusCode::OK, StatusCode::NOT_FOUND),
        "{second:?}"
    );
    assert_eq!(world.get("/f").await.0, 404);
}

#[tokio::test]
async fn a_changed_function_leaves_its_old_instances() {
    let (old, new) = (Scripted::start().await, Scripted::start().await);
    let world = World::start(json!({"concurrency": 1}), &[&new]).await;
    world.instance(&old.address);
    let running = world.get("/f/gate");
    let change = async {
        until("the old one is called", || old.running() == 1).await;
        world.function(2, json!({"concurrency": 1}));
        // Told late, of the state before.
        world.instance(&old.address);
        let status = world.get("/f").await.0;
        old.gate.add_permits(1);
        status
    };
    let (before, after) = tokio::join!(running, change);
    assert_eq!((before.0, after), (StatusCode::OK, StatusCode::OK));
    assert_eq!((old.calls(), new.calls()), (1, 1));
}

#[tokio::test]
async fn an_instance_of_once_only_is_called_once() {
    let instances = [Scripted::start().await, Scripted::start().await];
    let world = World::start(json!({"onceOnly": true}), &instances.each_ref()).await;
    assert_eq!(world.get("/f").await.0, 200);
    // Its labels are written after the call.
    world.instance(&instances[0].address);
    assert_eq!(world.get("/f").await.0, 200);
    assert_eq!((instances[0].calls(), instances[1].calls()), (1, 1));
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let instance = Scripted::start().await;
    let world = World::start(json!({}), &[&instance]).await;
    let body = "x".repeat(3 << 20);
    for _ in 0..2 {
        let request = Request::post("/f/echo")
            .body(Full::new(Bytes::from(body.clone())))
            .unwrap();
        let (status, _, echoed) = send(world.public, request).await;
        assert_eq!(status, 200);
        assert!(echoed == body);
    }
}

#[tokio::test]
async fn all_calls_that_wait_learn_that_no_instance_can_be_made() {
    let world = World::start(json!({}), &[]).await;
    let calls = futures::future::join_all((0..20).map(|_| world.get("/f"))).await;
    assert!(calls.iter().all(|(status, ..)| *status == 500), "{calls:?}");
    // Those that wait share a failure, instead of causing one each.
    assert!(world.executor.asked() <= 20);
}

#[tokio::test]
async fn an_instance_seen_before_its_function_changed_is_used() {
    let instance = Scripted::start().await;
    let world = World::start(json!({}), &[]).await;
    world.router.apply(Event::Instance {
        uid: "u".to_owned(),
        generation: 2,
        version: String::new(),
        address: instance.address.clone(),
    });
    assert_eq!(world.get("/f").await.0, 500);
    world.function(2, json!({}));
    assert_eq!(world.get("/f").await.0, 200);
    assert_eq!((world.executor.asked(), instance.calls()), (1, 1));
}

/// The version's own instances, by its own name or by an alias.
#[tokio::test]
async fn versions_have_instances_of_their_own() {
    let (live, old) = (Scripted::start().await, Scripted::start().await);
    let world = World::start(json!({}), &[]).await;
    world.instance(&live.address);
    let version = json!({
        "metadata": {"namespace": "default", "name": "f-v1", "uid": "v"},
        "spec": {
            "functionName": "f", "functionUID": "u", "functionGeneration": 1, "sequence": 1,
            "snapshot": {},
        },
    });
    let alias = json!({
        "metadata": {"namespace": "default", "name": "stable", "uid": "a"},
        "spec": {"functionName": "f", "version": "f-v1"},
    });
    world.router.apply(Event::Version(Box::new(
        serde_json::from_value(version).unwrap(),
    )));
    world.router.apply(Event::Alias(Box::new(
        serde_json::from_value(alias).unwrap(),
    )));
    world.router.apply(Event::Instance {
        uid: "u".to_owned(),
        generation: 1,
        version: "f-v1".to_owned(),
        address: old.address.clone(),
    });
    for (name, reference) in [
        ("v", json!({"type": "name", "name": "f", "version": "f-v1"})),
        ("a", json!({"type": "name", "name": "f", "alias": "stable"})),
        ("n", json!({"type": "name", "name": "f", "alias": "none"})),
    ] {
        world.trigger(
            name,
            json!({"relativeurl": format!("/{name}"), "functionref": reference}),
        );
    }
    assert_eq!(world.get("/f").await.0, 200);
    assert_eq!((live.calls(), old.calls()), (1, 0));
    assert_eq!(world.get("/v").await.0, 200);
    assert_eq!(world.get("/a").await.0, 200);
    assert_eq!((live.calls(), old.calls()), (1, 2));
    let (status, _, body) = world.get("/n").await;
    assert_eq!(status, 404);
    assert!(body.contains("no version or alias none"), "{body}");
}
