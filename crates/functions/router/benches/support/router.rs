//! The router in a world of one function with one instance, and many routes.

use farplane_functions_router::{Event, Settings, run_with};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Result;

/// Serves for ever.
pub async fn run(instance: &str, routes: usize) -> Result<()> {
    let any = TcpListener::bind("127.0.0.1:0").await?;
    let public = any.local_addr()?;
    drop(any);
    let any = "127.0.0.1:0".parse()?;
    let settings = Settings {
        traces: None,
        public,
        internal: any,
        forwarded: 0,
        metrics: any,
        // Nobody is there: warm calls do not need the executor.
        executor_url: "http://127.0.0.1:9".to_owned(),
        login: None,
        queue_url: "http://127.0.0.1:9".to_owned(),
        namespace: "fission".to_owned(),
        pod_name: "router".to_owned(),
        secret: b"secret".to_vec(),
        version: "0".to_owned(),
    };
    let (sender, events) = mpsc::channel(16);
    let routing = tokio::spawn(run_with(events, settings, CancellationToken::new()));
    for event in world(instance, routes)? {
        sender.send(event).await?;
    }
    // All of them are taken in.
    while sender.capacity() < sender.max_capacity() {
        tokio::task::yield_now().await;
    }
    println!("{public}");
    Ok(routing.await??)
}

fn world(instance: &str, routes: usize) -> Result<Vec<Event>> {
    let function = serde_json::from_value(json!({
        "metadata": {
            "namespace": "default", "name": "f", "uid": "u",
            "generation": 1, "resourceVersion": "7",
        },
        "spec": {"requestsPerPod": 1000, "concurrency": 1},
    }))?;
    let mut events = vec![Event::Function(Box::new(function))];
    for number in 0..routes {
        let trigger = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": format!("t{number}"), "uid": number.to_string()},
            "spec": {
                "relativeurl": format!("/route/{number}"),
                "methods": ["GET", "POST"],
                "functionref": {"type": "name", "name": "f"},
            },
        }))?;
        events.push(Event::Trigger(Box::new(trigger)));
    }
    events.push(Event::Instance {
        uid: "u".to_owned(),
        generation: 1,
        version: String::new(),
        address: instance.to_owned(),
    });
    events.push(Event::Synced);
    Ok(events)
}
