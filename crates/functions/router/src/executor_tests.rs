//! Asking a scripted executor.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use farplane_functions_types::auth;
use farplane_functions_types::wire::FunctionKey;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::*;

const SECRET: &[u8] = b"secret";

/// Gives the next answer to each request, and keeps the bodies of those with a good signature.
async fn scripted(
    listener: TcpListener,
    answers: Vec<(u16, String)>,
    seen: Arc<Mutex<Vec<Bytes>>>,
) {
    let answers = Arc::new(Mutex::new(std::collections::VecDeque::from(answers)));
    while let Ok((stream, _)) = listener.accept().await {
        let (answers, seen) = (answers.clone(), seen.clone());
        let answer = move |request: Request<Incoming>| {
            let (answers, seen) = (answers.clone(), seen.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let key = Key::derived(SECRET, Service::Executor, None);
                key.verify("POST", head.uri.path(), &body, &head.headers, auth::now())
                    .unwrap();
                seen.lock().unwrap().push(body);
                let (status, body) = answers.lock().unwrap().pop_front().unwrap();
                let response = Response::builder().status(status);
                Ok::<_, Infallible>(response.body(Full::new(Bytes::from(body))).unwrap())
            }
        };
        tokio::spawn(
            http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)),
        );
    }
}

async fn start(answers: Vec<(u16, String)>) -> (Executor, Arc<Mutex<Vec<Bytes>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::default();
    tokio::spawn(scripted(listener, answers, Arc::clone(&seen)));
    (Executor::new(&url, SECRET).unwrap(), seen)
}

fn asked() -> InstanceRequest {
    InstanceRequest {
        function: FunctionKey {
            namespace: "default".to_owned(),
            name: "f".to_owned(),
            uid: "u".to_owned(),
            generation: 2,
            version: String::new(),
        },
        known: vec!["10.0.0.1:8888".to_owned()],
    }
}

fn instance(generation: i64) -> Instance {
    let mut function = asked().function;
    function.generation = generation;
    Instance {
        address: "10.0.0.2:8888".to_owned(),
        pod: None,
        function,
        cold: true,
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[tokio::test]
async fn it_is_asked_until_it_knows_what_we_know() {
    let reason = r#"{"component":"executor","reason":"it does not lead"}"#;
    let old = serde_json::to_string(&instance(1)).unwrap();
    let new = serde_json::to_string(&instance(2)).unwrap();
    let (executor, seen) = start(vec![(503, reason.to_owned()), (200, old), (200, new)]).await;
    assert_eq!(executor.instance(&asked(), soon()).await, Ok(instance(2)));
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 3);
    let sent: InstanceRequest = serde_json::from_slice(&seen[2]).unwrap();
    assert_eq!(sent, asked());
}

#[tokio::test]
async fn its_refusals_are_told_word_for_word() {
    let failure = Failure {
        component: "fetcher".to_owned(),
        reason: "the package is no archive".to_owned(),
        ..Failure::default()
    };
    let text = serde_json::to_string(&failure).unwrap();
    let answers = vec![(429, text.clone()), (500, text), (418, "short".to_owned())];
    let (executor, _) = start(answers).await;
    let mut denied = Vec::new();
    for _ in 0..3 {
        denied.push(executor.instance(&asked(), soon()).await.unwrap_err());
    }
    assert_eq!(denied[0], Denied::Full(failure.clone()));
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    assert_eq!(denied[1], Denied::Failed { status, failure });
    assert!(denied[2].to_string().ends_with(": short"), "{}", denied[2]);
}

#[tokio::test]
async fn one_that_comes_late_is_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let executor = Executor::new(&format!("http://{address}"), SECRET).unwrap();
    let ask = tokio::spawn({
        let executor = executor.clone();
        async move { executor.instance(&asked(), soon()).await }
    });
    // It was refused at least once when this one is over.
    let now = executor
        .instance(&asked(), Instant::now())
        .await
        .unwrap_err();
    assert!(
        matches!(&now, Denied::Failed { status, .. } if *status == StatusCode::GATEWAY_TIMEOUT)
    );
    let listener = TcpListener::bind(address).await.unwrap();
    let answer = serde_json::to_string(&instance(2)).unwrap();
    tokio::spawn(scripted(listener, vec![(200, answer)], Arc::default()));
    assert_eq!(ask.await.unwrap(), Ok(instance(2)));
}

#[tokio::test]
async fn what_is_used_is_reported() {
    let (executor, seen) = start(vec![(200, String::new()), (503, "later".to_owned())]).await;
    let usage = Usage {
        router: "r".to_owned(),
        instances: Vec::new(),
    };
    executor.report(&usage).await.unwrap();
    let sent: Usage = serde_json::from_slice(&seen.lock().unwrap()[0]).unwrap();
    assert_eq!(sent, usage);
    let refused = executor.report(&usage).await.unwrap_err();
    assert!(matches!(refused, NotReported::Refused { .. }), "{refused}");
}

#[test]
fn an_address_that_is_none_is_refused() {
    for url in [
        "",
        "executor:8888",
        "https://executor",
        "http://executor/path",
    ] {
        assert!(Executor::new(url, SECRET).is_err(), "{url}");
    }
}
