//! Two routers: one passes calls on to the other, which owns the function.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::Event;
use crate::testing::{Scripted, World, send};

/// A router that knows of an owner at this address, with an instance of its own.
async fn not_the_owner(address: String) -> (World, std::sync::Arc<Scripted>) {
    let instance = Scripted::start().await;
    let world = World::start(json!({}), &[]).await;
    world.instance(&instance.address);
    world.trigger(
        "v",
        json!({
            "relativeurl": "/v/{id}",
            "functionref": {"type": "name", "name": "f"},
        }),
    );
    let name = "other".to_owned();
    world.router.apply(Event::Router { name, address });
    (world, instance)
}

#[tokio::test]
async fn the_owner_serves_the_calls_of_its_function() {
    let instance = Scripted::start().await;
    let owner = World::start(json!({}), &[&instance]).await;
    let (world, unused) = not_the_owner(owner.internal.to_string()).await;
    let (status, _, body) = world.get("/v/7?a=b").await;
    assert_eq!(status, 200, "{body}");
    assert!(body.starts_with("/?a=b\n"), "{body}");
    for line in [
        "x-fission-params-id: 7",
        "x-fission-full-url: /v/7?a=b",
        "x-fission-function-name: f",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-host: localhost",
    ] {
        assert!(body.lines().any(|it| it == line), "{line}: {body}");
    }
    assert!(!body.contains("x-fission-auth-") && !body.contains("x-farplane-owner"));
    let post = Request::post("/f/echo").body(Full::new(Bytes::from_static(b"body")));
    let (status, _, body) = send(world.public, post.unwrap()).await;
    assert_eq!((status.as_u16(), body.as_str()), (200, "body"));
    assert_eq!((instance.calls(), unused.calls()), (2, 0));
    // Counted once, where it came in.
    assert!(
        world
            .router
            .metrics
            .text()
            .contains("fission_function_calls_total{")
    );
    assert!(
        !owner
            .router
            .metrics
            .text()
            .contains("fission_function_calls_total{")
    );
}

#[tokio::test]
async fn a_socket_passes_both_routers() {
    let instance = Scripted::start().await;
    let owner = World::start(json!({}), &[&instance]).await;
    let (world, _unused) = not_the_owner(owner.internal.to_string()).await;
    let mut socket = TcpStream::connect(world.public).await.unwrap();
    let request =
        b"GET /f/socket HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    socket.write_all(request).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    socket.write_all(b"hello").await.unwrap();
    let mut echoed = [0; 5];
    socket.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"hello");
}

#[tokio::test]
async fn an_owner_that_is_gone_is_left_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (world, own) = not_the_owner(address).await;
    assert_eq!(world.get("/f").await.0, 200);
    let name = "other".to_owned();
    world.router.apply(Event::RouterGone { name });
    assert_eq!(world.get("/f").await.0, 200);
    assert_eq!(own.calls(), 2);
}

#[tokio::test]
async fn nobody_passes_calls_on_without_the_secret() {
    let world = World::start(json!({}), &[]).await;
    let request = Request::get("/fission-function/f").header("x-farplane-owner", "other");
    let (status, ..) = send(world.internal, request.body(Full::default()).unwrap()).await;
    assert_eq!(status, 401);
}

#[tokio::test]
async fn an_owner_that_does_not_know_the_function_yet_is_left_out() {
    let owner = World::start(json!({}), &[]).await;
    let (namespace, name) = ("default".to_owned(), "f".to_owned());
    owner.router.apply(Event::FunctionGone { namespace, name });
    let (world, own) = not_the_owner(owner.internal.to_string()).await;
    assert_eq!(world.get("/f").await.0, 200);
    assert_eq!(own.calls(), 1);
    // A body is gone with the first try.
    let post = Request::post("/f/echo").body(Full::new(Bytes::from_static(b"body")));
    let (status, headers, _) = send(world.public, post.unwrap()).await;
    assert_eq!((status.as_u16(), own.calls()), (503, 1));
    assert!(!headers.contains_key("x-farplane-owner"));
}

#[tokio::test]
async fn an_owner_that_ends_between_two_calls_is_left_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (world, own) = not_the_owner(address).await;
    let owner = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
        stream.write_all(answer).await.unwrap();
    });
    assert_eq!(world.get("/f").await.2, "hi");
    owner.await.unwrap();
    assert_eq!(world.get("/f").await.0, 200);
    assert_eq!(own.calls(), 1);
}
