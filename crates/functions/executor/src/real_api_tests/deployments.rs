//! Hand-over, provisioned instances and Deployments against a real API server.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn a_hand_over_finishes_what_was_begun() {
    let (server, cluster, executor) = scene(1).await;
    let held = function(&server, "held", json!({})).await;
    let next = Process::start(&server, "executor-2");
    let request = serde_json::to_vec(&json!({ "function": key(&held) })).unwrap();
    let call = tokio::spawn(send(executor.address, "POST", INSTANCES, request, true));
    eventually("a specialisation", async || {
        (cluster.specialised() == 1).then_some(())
    })
    .await;
    executor.shutdown.cancel();
    cluster.release();
    let call = async {
        // Told again: it may not have been waiting yet.
        loop {
            cluster.release();
            tokio::time::sleep(Duration::from_millis(20)).await;
            if call.is_finished() {
                return call.await.unwrap().unwrap();
            }
        }
    };
    let (status, body) = call.await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    let made: Instance = serde_json::from_slice(&body).unwrap();
    executor.task.await.unwrap().unwrap();
    next.ready().await;
    let found = next.instance(&held, &[]).await.unwrap();
    assert_eq!(found.address, made.address);
    assert_eq!(cluster.specialised(), 1);
    next.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn provisioned_instances_are_there_before_the_first_call() {
    let (server, cluster, executor) = scene(1).await;
    let warm = function(
        &server,
        "warm",
        json!({ "provisionedConcurrency": { "target": 3 } }),
    )
    .await;
    eventually("three instances, and word of them", async || {
        let status = server.api::<Function>().get("warm").await.ok()?.status?;
        (status.provisioned_ready == Some(3)).then_some(())
    })
    .await;
    assert_eq!(cluster.specialised(), 3);
    let found = executor.instance(&warm, &[]).await.unwrap();
    assert!(!found.cold);
    eventually("their labels", async || {
        let pods = cluster.pods(&format!("{}=true", label::PROVISIONED)).await;
        (pods.len() == 3).then_some(())
    })
    .await;
    // Tools find the function's Service.
    eventually("its Service", async || {
        let name = names::function_service("warm", &warm.uid()?);
        let api = server.api::<k8s_openapi::api::core::v1::Service>();
        api.get_opt(&name).await.unwrap()
    })
    .await;
    executor.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn a_window_that_is_open_says_how_many_and_one_that_is_wrong_is_told() {
    let (server, cluster, executor) = scene(1).await;
    let always = json!({ "name": "always", "start": "* * * * * *", "duration": "1h", "target": 2 });
    let said = json!({ "provisionedConcurrency": { "target": 1, "windows": [always] } });
    function(&server, "warm", said).await;
    let until = async |ready, target| {
        eventually("the number of a window", async || {
            let status = server.api::<Function>().get("warm").await.ok()?.status?;
            assert_ne!(status.provisioned_spec_target, Some(2));
            let seen = (status.provisioned_ready?, status.provisioned_target?);
            (seen == (ready, target)).then_some(())
        })
        .await;
    };
    until(2, 2).await;
    assert_eq!(cluster.specialised(), 2);
    let wrong = json!({ "name": "wrong", "start": "61 * * * *", "duration": "1h", "target": 9 });
    let change = json!({ "spec": { "provisionedConcurrency": { "windows": [wrong] } } });
    server.patch::<Function>("warm", change).await;
    until(1, 1).await;
    server
        .condition::<Function>("warm", "Provisioned", "False=InvalidWindow")
        .await;
    executor.end().await;
}

async fn deployed(server: &World, name: &str, strategy: Value) -> Function {
    let mut execution = json!({ "ExecutorType": "newdeploy", "MaxScale": 3 });
    let strategy = strategy.as_object().cloned().unwrap_or_default();
    execution.as_object_mut().unwrap().extend(strategy);
    let more = json!({ "InvokeStrategy": { "ExecutionStrategy": execution }, "idletimeout": 2 });
    function(server, name, more).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn a_function_with_its_own_deployment_comes_from_nothing_and_goes_back() {
    let (server, _cluster, executor) = scene(0).await;
    let own = deployed(&server, "own", json!({ "MinScale": 0 })).await;
    let uid = own.uid().unwrap();
    let name = names::deployment("newdeploy", "own", "ns", &uid);
    let replicas = async || {
        let deployment = server.api::<Deployment>().get_opt(&name).await.unwrap()?;
        deployment.spec.replicas
    };
    eventually("a Deployment without Pods", async || {
        (replicas().await? == 0).then_some(())
    })
    .await;
    let scaler = eventually("its autoscaler", async || {
        let api = server.api::<k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler>();
        api.get_opt(&name).await.unwrap()
    })
    .await;
    assert_eq!(scaler.spec.max_replicas, 3);
    let made = executor.instance(&own, &[]).await.unwrap();
    assert!(made.cold);
    assert_eq!(replicas().await, Some(1));
    let (status, _) = executor.instance(&own, &[&made.address]).await.unwrap_err();
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    // What somebody deletes comes back without a call.
    server
        .api::<k8s_openapi::api::core::v1::Service>()
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
    eventually("its Service to be made again", async || {
        let api = server.api::<k8s_openapi::api::core::v1::Service>();
        api.get_opt(&name).await.unwrap()
    })
    .await;
    eventually("it to be idle", async || {
        executor.used(&made.address, 0, 5000).await;
        (replicas().await? == 0).then_some(())
    })
    .await;
    server
        .api::<Function>()
        .delete("own", &DeleteParams::default())
        .await
        .unwrap();
    eventually("its Deployment to go", async || {
        let there = server.api::<Deployment>().get_opt(&name).await.unwrap();
        there.is_none().then_some(())
    })
    .await;
    executor.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn an_image_of_a_user_is_called_at_its_own_port() {
    let (server, _cluster, executor) = scene(0).await;
    let spec = json!({
        "podspec": { "containers": [{ "name": "mine", "image": "mine" }] },
        "InvokeStrategy": { "ExecutionStrategy": {
            "ExecutorType": "container", "MinScale": 1, "MaxScale": 1 } },
    });
    let mine: Function = server.create("mine", spec).await;
    let found = executor.instance(&mine, &[]).await.unwrap();
    assert!(found.address.ends_with(":8888"), "{found:?}");
    executor.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn what_cannot_be_made_is_told_at_once_and_in_the_status() {
    let (server, _cluster, executor) = scene(1).await;
    let execution = json!({ "ExecutorType": "newdeploy", "MaxScale": 1 });
    let strategy = json!({ "StrategyType": "execution", "ExecutionStrategy": execution });
    // What we refuse, and what the API server refuses.
    for (name, variable, word) in [
        (
            "ours",
            json!({ "name": "LD_PRELOAD", "value": "x" }),
            "LD_PRELOAD",
        ),
        ("theirs", json!({ "name": "a=b", "value": "x" }), "refused"),
    ] {
        let more = json!({ "InvokeStrategy": strategy.clone(), "env": [variable] });
        let made = function(&server, name, more).await;
        let (status, failure) = executor.instance(&made, &[]).await.unwrap_err();
        assert_ne!(status, StatusCode::GATEWAY_TIMEOUT, "{failure:?}");
        assert!(failure.reason.contains(word), "{failure:?}");
        eventually("the status to say so", async || {
            let status = server.api::<Function>().get(name).await.ok()?.status?;
            let mut ready = status.conditions.iter().filter(|one| one.type_ == "Ready");
            ready
                .any(|one| one.status == "False" && one.message.contains(word))
                .then_some(())
        })
        .await;
    }
    executor.end().await;
}
