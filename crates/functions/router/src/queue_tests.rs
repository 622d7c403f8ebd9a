//! Handing over calls to a scripted queue, through a router's listeners.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use farplane_functions_types::auth::{self, Key, Service};
use farplane_functions_types::wire::Failure;
use http::Uri;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::testing::{SECRET, Scripted, World, send};

const TAKEN: &str = r#"{"invocationId":"i-1"}"#;

/// A queue that gives these answers in turn; status 0 ends the connection instead.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<(u16, &'static str)>>,
    seen: Mutex<Vec<(Uri, Bytes)>>,
}

impl Script {
    async fn start(answers: &[(u16, &'static str)]) -> (Arc<Self>, Queue) {
        let script = Arc::new(Self {
            answers: Mutex::new(answers.iter().copied().collect()),
            seen: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = script.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let script = serving.clone();
                let service = service_fn(move |request| script.clone().answer(request));
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        (script, Queue::new(&url, SECRET).unwrap())
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let key = Key::derived(SECRET, Service::Invocations, None);
        let target = parts.uri.path_and_query().unwrap().as_str();
        let method = parts.method.as_str();
        key.verify(method, target, &body, &parts.headers, auth::now())
            .unwrap();
        self.seen.lock().unwrap().push((parts.uri, body));
        match self.answers.lock().unwrap().pop_front().unwrap() {
            (0, _) => Err(std::io::Error::other("away")),
            (status, body) => {
                let response = Response::builder().status(status);
                Ok(response.body(Full::new(Bytes::from(body))).unwrap())
            }
        }
    }

    fn seen(&self) -> Vec<(Uri, Bytes)> {
        self.seen.lock().unwrap().clone()
    }
}

async fn world(answers: &[(u16, &'static str)]) -> (Arc<Script>, World) {
    let (script, queue) = Script::start(answers).await;
    let world = World::start_with(json!({}), &[], Some(queue), None).await;
    (script, world)
}

fn asynchronous(path: &str, body: &'static [u8]) -> Request<Full<Bytes>> {
    let request = Request::post(path)
        .header(header::INVOKE_MODE, "Async")
        .header(header::DEDUP_KEY, "once")
        .header("x-mine", "1");
    request.body(Full::new(Bytes::from_static(body))).unwrap()
}

#[tokio::test]
async fn a_call_is_handed_over_as_the_function_shall_see_it() {
    let (script, world) = world(&[(202, TAKEN)]).await;
    let (status, headers, body) = send(world.public, asynchronous("/f/a?b=c", b"hello")).await;
    assert_eq!((status.as_u16(), body.as_str()), (202, TAKEN));
    assert_eq!(headers[header::INVOCATION_ID], "i-1");
    assert_eq!(world.executor.asked(), 0, "no instance is needed");
    let seen = script.seen();
    assert_eq!(seen[0].0.path(), INVOCATIONS);
    let taken: InvocationRequest = serde_json::from_slice(&seen[0].1).unwrap();
    assert_eq!(taken.namespace, "default");
    assert_eq!((taken.function.as_str(), taken.tag.as_str()), ("f", ""));
    assert_eq!(
        (taken.method.as_str(), taken.target.as_str()),
        ("POST", "/a?b=c")
    );
    assert_eq!(taken.dedup_key.as_deref(), Some("once"));
    assert_eq!(BASE64_STANDARD.decode(taken.body).unwrap(), b"hello");
    let has =
        |name: &str, value: &str| taken.headers.contains(&(name.to_owned(), value.to_owned()));
    assert!(has("x-mine", "1") && has(header::FULL_URL, "/f/a?b=c"));
    let names: Vec<&str> = taken
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert!(names.contains(&header::REQUEST_ID));
    assert!(
        !names.contains(&header::INVOKE_MODE),
        "it would be handed over for ever"
    );
    let metrics = world.router.metrics.text();
    assert!(
        metrics.contains(r#"code="202",function_version=""} 1"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_trigger_can_make_its_calls_asynchronous() {
    let (script, world) = world(&[(202, TAKEN)]).await;
    world.trigger(
        "a",
        json!({
            "relativeurl": "/later/{who}", "methods": ["GET"], "invocationMode": "async",
            "functionref": {"type": "name", "name": "f"},
        }),
    );
    assert_eq!(world.get("/later/me").await.0, 202);
    let taken: InvocationRequest = serde_json::from_slice(&script.seen()[0].1).unwrap();
    let variable = (format!("{}who", header::PARAMS), "me".to_owned());
    assert!(
        taken
            .headers
            .iter()
            .any(|(name, value)| name.eq_ignore_ascii_case(&variable.0) && *value == variable.1),
        "{:?}",
        taken.headers
    );
}

#[tokio::test]
async fn a_queue_that_is_away_is_asked_again_only_where_it_took_nothing() {
    let (script, world) = world(&[
        (503, "does not lead"),
        (503, "does not lead"),
        (202, TAKEN),
        (0, ""),
    ])
    .await;
    assert_eq!(send(world.public, asynchronous("/f", b"")).await.0, 202);
    assert_eq!(script.seen().len(), 3);
    let (status, _, body) = send(world.public, asynchronous("/f", b"")).await;
    assert_eq!(status, 503);
    let failure: Failure = serde_json::from_str(&body).unwrap();
    assert!(
        failure.reason.contains("may have been taken"),
        "{}",
        failure.reason
    );
    assert_eq!(script.seen().len(), 4, "it may have been taken");
}

#[tokio::test]
async fn a_call_that_is_too_large_is_refused_and_reasons_are_passed_on() {
    let (script, world) = world(&[(400, "body is not base64")]).await;
    static LARGE: [u8; INVOCATION_LIMIT + 1] = [0; INVOCATION_LIMIT + 1];
    assert_eq!(send(world.public, asynchronous("/f", &LARGE)).await.0, 413);
    assert!(script.seen().is_empty());
    let (status, _, body) = send(world.public, asynchronous("/f", b"")).await;
    let failure: Failure = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status.as_u16(), failure.reason.as_str()),
        (400, "body is not base64")
    );
}

#[tokio::test]
async fn dead_letters_are_looked_at_by_the_internal_door() {
    let (script, world) = world(&[
        (200, r#"{"messages":[]}"#),
        (404, "there is no dead call i"),
    ])
    .await;
    let ask = async |target: &str, secret: &[u8]| {
        let mut request = Request::get(target);
        let key = Key::derived(secret, Service::RouterInternal, None);
        let signed = key.sign("GET", target, b"", auth::now());
        for (name, value) in signed.unwrap().headers() {
            request = request.header(name, value);
        }
        send(world.internal, request.body(Full::default()).unwrap()).await
    };
    assert_eq!(ask("/v1/async/dlq/list", b"other").await.0, 401);
    let (status, _, body) = ask("/v1/async/dlq/list?namespace=default", SECRET).await;
    assert_eq!(
        (status.as_u16(), body.as_str()),
        (200, r#"{"messages":[]}"#)
    );
    let expected = format!("{INVOCATIONS_DEAD}/list?namespace=default");
    assert_eq!(script.seen()[0].0, expected.as_str());
    assert_eq!(ask("/v1/async/dlq/show?id=i", SECRET).await.0, 404);
    assert_eq!(
        world.get("/v1/async/dlq/list").await.0,
        404,
        "not by the public one"
    );
}

#[tokio::test]
async fn variables_of_a_path_are_believed_of_the_platform_only() {
    let instance = Scripted::start().await;
    let world = World::start(json!({}), &[&instance]).await;
    let name = format!("{}who", header::PARAMS);
    let request = Request::get("/f").header(&name, "me");
    let (_, _, body) = send(world.public, request.body(Full::default()).unwrap()).await;
    assert!(!body.contains(&name), "{body}");
    let target = "/fission-function/f";
    let mut request = Request::get(target).header(&name, "me");
    let key = Key::derived(SECRET, Service::RouterInternal, None);
    for (name, value) in key.sign("GET", target, b"", auth::now()).unwrap().headers() {
        request = request.header(name, value);
    }
    let (_, _, body) = send(world.internal, request.body(Full::default()).unwrap()).await;
    assert!(body.contains(&format!("{name}: me")), "{body}");
}
