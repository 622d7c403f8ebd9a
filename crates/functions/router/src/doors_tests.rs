//! What each listener leads to.

use bytes::Bytes;
use farplane_functions_types::auth::{self, Key, Service};
use farplane_functions_types::wire::Failure;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::json;

use crate::testing::{SECRET, Scripted, World, send};
use crate::{Credentials, Event};

#[tokio::test]
async fn the_public_door_leads_to_routes_only() {
    let world = World::start(json!({}), &[]).await;
    let status = async |path: &str| world.get(path).await.0.as_u16();
    assert_eq!(status("/").await, 200);
    assert_eq!(status("/router-healthz").await, 200);
    assert_eq!(status("/readyz").await, 503);
    world.router.apply(Event::Synced);
    assert_eq!(status("/readyz").await, 200);
    assert_eq!(status("/fission-function/f").await, 404);
    assert_eq!(status("/elsewhere").await, 404);
    let (_, headers, body) = world.get("/elsewhere").await;
    assert_eq!(headers["x-fission-component"], "router");
    assert!(serde_json::from_str::<Failure>(&body).is_ok());
    assert!(world.get("/_version").await.2.contains("1.2.3"));
    let wrong = Request::delete("/f").body(Full::default()).unwrap();
    assert_eq!(send(world.public, wrong).await.0, 405);
}

#[tokio::test]
async fn a_forwarded_port_leads_to_routes_and_to_any_function() {
    let instance = Scripted::start().await;
    let world = World::start(json!({}), &[&instance]).await;
    let get = async |path: &str| {
        let request = Request::get(path).body(Full::default()).unwrap();
        send(world.forwarded, request).await
    };
    for path in ["/fission-function/f/a?b=c", "/f/a?b=c"] {
        let (status, _, body) = get(path).await;
        assert_eq!(status, 200);
        assert!(body.contains("/a?b=c\n"), "{body}");
    }
    assert_eq!(get("/fission-function/g").await.0, 404);
    assert_eq!(get("/elsewhere").await.0, 404);
    // Nobody becomes another router by coming this way.
    let request = Request::get("/fission-function/f").header("x-farplane-owner", "router");
    let (status, ..) = send(world.forwarded, request.body(Full::default()).unwrap()).await;
    assert_eq!(status, 401);
    let (_, _, body) = get("/_version").await;
    let version: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(version["Build"]["Version"], "v1.27.0");
    assert!(version["ServerTime"]["CurrentTime"].is_string());
}

#[tokio::test]
async fn the_internal_door_wants_a_signature() {
    let instance = Scripted::start().await;
    let world = World::start(json!({}), &[&instance]).await;
    let call = async |path: &str, secret: &[u8]| {
        let body = Bytes::from_static(b"body");
        let mut request = Request::post(path);
        let key = Key::derived(secret, Service::RouterInternal, None);
        for (name, value) in key
            .sign("POST", path, &body, auth::now())
            .unwrap()
            .headers()
        {
            request = request.header(name, value);
        }
        send(world.internal, request.body(Full::new(body)).unwrap()).await
    };
    assert_eq!(call("/fission-function/f", b"other").await.0, 401);
    let (status, _, body) = call("/fission-function/default/f/echo", SECRET).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "body"));
    let (status, _, body) = call("/fission-function/f/a?b=c", SECRET).await;
    assert_eq!(status, 200);
    assert!(body.starts_with("/a?b=c\n"), "{body}");
    assert!(!body.contains("x-fission-auth-"), "{body}");
    let (status, headers, _) = call("/fission-function/g", SECRET).await;
    assert_eq!(status, 404);
    assert!(headers.contains_key("x-fission-route-miss"));
}

#[tokio::test]
async fn other_origins_may_call_when_the_trigger_says_so() {
    let instance = Scripted::start().await;
    let world = World::start(json!({}), &[]).await;
    world.instance(&instance.address);
    world.trigger(
        "c",
        json!({
            "relativeurl": "/c", "methods": ["GET", "PUT"],
            "functionref": {"type": "name", "name": "f"},
            "corsConfig": {
                "allowOrigins": ["https://a.example"], "allowHeaders": ["x-mine"],
                "exposeHeaders": ["x-yours"], "allowCredentials": true, "maxAge": "10m",
            },
        }),
    );
    let ask = async |path: &str, origin: &str, method: &str| {
        let request = Request::options(path)
            .header("origin", origin)
            .header("access-control-request-method", method);
        send(world.public, request.body(Full::default()).unwrap()).await
    };
    let (status, headers, _) = ask("/c", "https://a.example", "PUT").await;
    assert_eq!(status, 204);
    for (name, value) in [
        ("access-control-allow-origin", "https://a.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "GET, PUT"),
        ("access-control-allow-headers", "x-mine"),
        ("access-control-max-age", "600"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    assert_eq!(ask("/c", "https://b.example", "PUT").await.0, 403);
    assert_eq!(ask("/c", "https://a.example", "DELETE").await.0, 403);
    assert_eq!(ask("/f", "https://a.example", "GET").await.0, 403);
    let get = Request::get("/c").header("origin", "https://a.example");
    let (status, headers, _) = send(world.public, get.body(Full::default()).unwrap()).await;
    assert_eq!(status, 200);
    assert_eq!(headers["access-control-allow-origin"], "https://a.example");
    assert_eq!(headers["access-control-expose-headers"], "x-yours");
}

#[tokio::test]
async fn routes_want_a_token_where_there_is_a_user() {
    let instance = Scripted::start().await;
    let user = Credentials {
        username: "admin".to_owned(),
        password: "right".to_owned(),
    };
    let world = World::start_with(json!({}), &[&instance], None, Some(user)).await;
    let (status, headers, _) = world.get("/f").await;
    assert_eq!(status, 401);
    assert_eq!(headers["www-authenticate"], "Bearer");
    assert_eq!(world.get("/router-healthz").await.0, 200);
    let log_in = async |password: &str| {
        let body = json!({ "username": "admin", "password": password }).to_string();
        let request = Request::post("/auth/login").body(Full::new(Bytes::from(body)));
        send(world.public, request.unwrap()).await
    };
    assert_eq!(log_in("wrong").await.0, 401);
    let (status, _, body) = log_in("right").await;
    assert_eq!(status, 201);
    let token: serde_json::Value = serde_json::from_str(&body).unwrap();
    let request = Request::get("/f").header(
        "authorization",
        format!("Bearer {}", token["accesstoken"].as_str().unwrap()),
    );
    let (status, _, body) = send(world.public, request.body(Full::default()).unwrap()).await;
    assert_eq!(status, 200);
    assert!(!body.contains("authorization"), "{body}");
    // The platform's own parts sign instead.
    let target = "/fission-function/f";
    let key = Key::derived(SECRET, Service::RouterInternal, None);
    let mut request = Request::get(target);
    for (name, value) in key.sign("GET", target, b"", auth::now()).unwrap().headers() {
        request = request.header(name, value);
    }
    let (status, ..) = send(world.internal, request.body(Full::default()).unwrap()).await;
    assert_eq!(status, 200);
}
