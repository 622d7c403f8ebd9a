//! A validating webhook: denies what carries the label `deny=true`.

use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde_json::{Value, json};

use crate::serve;

/// Routes of the webhook; every path decides.
pub fn router() -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route(
            "/{*path}",
            post(|Json(review): Json<Value>| async move { Json(decide(&review)) }),
        )
        .layer(middleware::from_fn(serve::log))
}

/// The answer to an `AdmissionReview`.
fn decide(review: &Value) -> Value {
    let request = &review["request"];
    // A deletion has only the old object.
    let object = match &request["object"] {
        Value::Null => &request["oldObject"],
        object => object,
    };
    let denied = object["metadata"]["labels"]["deny"] == "true";
    let mut response = json!({ "uid": request["uid"], "allowed": !denied });
    if denied {
        response["status"] = json!({
            "code": 403,
            "message": "denied: the object has the label deny=true",
        });
    }
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": response,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(labels: Value) -> Value {
        json!({ "request": { "uid": "u", "object": { "metadata": { "labels": labels } } } })
    }

    #[test]
    fn the_label_decides() {
        let denied = decide(&review(json!({ "deny": "true" })));
        assert_eq!(denied["response"]["allowed"], false);
        assert_eq!(denied["response"]["uid"], "u");
        for labels in [json!({ "deny": "false" }), json!({}), Value::Null] {
            assert_eq!(decide(&review(labels))["response"]["allowed"], true);
        }
    }
}
