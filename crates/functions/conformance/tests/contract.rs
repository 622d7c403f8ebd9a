//! The contract, once per environment.

use anyhow::Result;
use farplane_functions_conformance::Subject;
use hyper::Method;
use serde_json::Value;

async fn generic_pods_wait_for_code(language: &str) -> Result<()> {
    let subject = Subject::start(language).await?;
    assert_eq!(
        subject.call(Method::GET, "/healthz", &[], "").await?.status,
        200
    );
    assert_eq!(subject.call(Method::GET, "/", &[], "").await?.status, 500);
    let first = subject.specialise("hello").await?;
    assert!(matches!(first.status, 200 | 202), "{first:?}");
    let hello = subject.call(Method::GET, "/", &[], "").await?;
    assert_eq!((hello.status, hello.text().trim()), (200, "Hello, world!"));
    let head = subject.call(Method::HEAD, "/", &[], "").await?;
    assert_eq!((head.status, head.body.len()), (200, 0));
    for path in ["/v2/specialize", "/specialize"] {
        let second = subject.call(Method::POST, path, &[], "{}").await?;
        assert_eq!(second.status, 400, "{second:?}");
        assert!(second.text().contains("Not a generic container"));
    }
    assert_eq!(
        subject.call(Method::GET, "/healthz", &[], "").await?.status,
        200
    );
    Ok(())
}

async fn version_1_loads_the_file_at_its_place(language: &str) -> Result<()> {
    let subject = Subject::start(language).await?;
    subject.place("hello", "user")?;
    let answer = subject.call(Method::POST, "/specialize", &[], "").await?;
    assert!(matches!(answer.status, 200 | 202), "{answer:?}");
    let hello = subject.call(Method::GET, "/", &[], "").await?;
    assert_eq!(hello.text().trim(), "Hello, world!");
    Ok(())
}

async fn a_call_arrives_as_it_was_sent(language: &str) -> Result<()> {
    let subject = Subject::start(language).await?;
    subject.specialise("report").await?;
    for method in [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
    ] {
        let headers = [("X-Question", "why not"), ("content-type", "text/plain")];
        let target = "/some/path%20here?a=1&b=two%20words";
        let answer = subject.call(method.clone(), target, &headers, "").await?;
        assert_eq!(answer.status, 200, "{method} {answer:?}");
        let told: Value = serde_json::from_slice(&answer.body)?;
        assert_eq!(told["method"], method.as_str());
        let path = told["path"]
            .as_str()
            .unwrap_or_default()
            .replace("%20", " ");
        assert_eq!(path, "/some/path here");
        assert_eq!(told["a"], "1");
        assert_eq!(told["b"], "two words");
        assert_eq!(told["question"], "why not");
    }
    Ok(())
}

async fn bodies_of_all_sizes_come_back(language: &str) -> Result<()> {
    let subject = Subject::start(language).await?;
    subject.specialise("echo").await?;
    let headers = [("content-type", "application/octet-stream")];
    for size in [0usize, 1, 1024, 70_000, 1 << 20, 8 << 20] {
        let body: Vec<u8> = (0..size)
            .map(|at| u8::try_from(at % 251).unwrap_or(0))
            .collect();
        let answer = subject
            .call(Method::POST, "/", &headers, body.clone())
            .await?;
        assert_eq!(
            answer.status,
            200,
            "{size} bytes: {}",
            answer.text().chars().take(200).collect::<String>()
        );
        assert!(
            answer.body == body,
            "{size} bytes came back as {}",
            answer.body.len()
        );
    }
    Ok(())
}

async fn chunked_bodies_and_closed_connections(language: &str) -> Result<()> {
    let subject = Subject::start(language).await?;
    subject.specialise("echo").await?;
    let request = b"POST / HTTP/1.1\r\nHost: f\r\nContent-Type: application/octet-stream\r\n\
        Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
        7\r\nhello, \r\n6;a=b\r\nworld!\r\n0\r\n\r\n";
    let answer = subject.exchange(request).await?;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("hello, world!"), "{answer}");
    let answer = subject.exchange(b"nonsense\r\n\r\n").await?;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let answer = subject.call(Method::POST, "/", &[], "still here").await?;
    assert_eq!(answer.status, 200);
    Ok(())
}

async fn a_directory_is_a_package(language: &str, file: &str, entry: &str) -> Result<()> {
    let subject = Subject::start(language).await?;
    let path = subject.place_in_directory("hello", file)?;
    let answer = subject.load(&path, entry).await?;
    assert!(
        matches!(answer.status, 200 | 202),
        "{}: {}",
        answer.status,
        answer.text()
    );
    let hello = subject.call(Method::GET, "/", &[], "").await?;
    assert_eq!(hello.text().trim(), "Hello, world!");
    Ok(())
}

async fn many_calls_at_once_are_all_answered(language: &str) -> Result<()> {
    let subject = std::sync::Arc::new(Subject::start(language).await?);
    subject.specialise("echo").await?;
    let calls = (0..16).map(|number| {
        let subject = subject.clone();
        tokio::spawn(async move {
            let headers = [("content-type", "application/octet-stream")];
            for round in 0..20 {
                let body = format!("{number}/{round}");
                let answer = subject
                    .call(Method::POST, "/", &headers, body.clone())
                    .await?;
                anyhow::ensure!(
                    answer.text() == body,
                    "{body} came back as {}",
                    answer.text()
                );
            }
            anyhow::Ok(())
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await??;
    }
    Ok(())
}

async fn failures_are_told_and_survived(language: &str) -> Result<()> {
    let subject = Subject::start(language).await?;
    subject.specialise("fail").await?;
    for _ in 0..2 {
        let answer = subject.call(Method::GET, "/", &[], "").await?;
        assert_eq!(answer.status, 500, "{answer:?}");
    }
    let subject = Subject::start(language).await?;
    let answer = subject.specialise("broken").await?;
    assert_eq!(answer.status, 500);
    // The code that is half there serves nothing.
    let call = subject.call(Method::GET, "/", &[], "").await?;
    assert_eq!(call.status, 500);
    assert!(
        answer.text().contains("no such thing"),
        "its own words are missing: {}",
        answer.text()
    );
    Ok(())
}

async fn sigterm_lets_a_call_finish(language: &str) -> Result<()> {
    let mut subject = Subject::start(language).await?;
    subject.specialise("stream").await?;
    // Its first piece comes at once, the others take a while.
    let mut response = subject.open(Method::GET, "/", &[], "").await?;
    let first = http_body_util::BodyExt::frame(response.body_mut()).await;
    let first = first
        .transpose()?
        .and_then(|frame| frame.into_data().ok())
        .unwrap_or_default();
    subject.terminate()?;
    let rest = http_body_util::BodyExt::collect(response.into_body())
        .await?
        .to_bytes();
    let text = String::from_utf8([first, rest].concat())?;
    assert_eq!(
        text.split_whitespace().collect::<Vec<_>>(),
        ["0", "1", "2", "3", "4"]
    );
    subject.ended().await
}

macro_rules! environment {
    ($language:ident $(, package $file:literal $entry:literal)*) => {
        mod $language {
            environment!(
                cases $language,
                generic_pods_wait_for_code,
                version_1_loads_the_file_at_its_place,
                a_call_arrives_as_it_was_sent,
                bodies_of_all_sizes_come_back,
                chunked_bodies_and_closed_connections,
                many_calls_at_once_are_all_answered,
                failures_are_told_and_survived,
                sigterm_lets_a_call_finish,
            );
            environment!(packages $language $(, $file $entry)*);
        }
    };
    // Of compiled languages every package is a directory.
    (packages $language:ident) => {};
    (packages $language:ident, $($file:literal $entry:literal),+) => {
        #[tokio::test]
        async fn directories_are_packages() {
            for (file, entry) in [$(($file, $entry)),+] {
                super::a_directory_is_a_package(stringify!($language), file, entry)
                    .await
                    .unwrap();
            }
        }
    };
    (cases $language:ident, $($case:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $case() {
                super::$case(stringify!($language)).await.unwrap();
            }
        )*
    };
}

environment!(binary, package "main" "", package "greet.sh" "greet.sh");
environment!(go);
environment!(java, package "hello.java" "", package "hello.java" "hello::handle");
environment!(mono, package "Hello.cs" "", package "Hello.cs" "Hello");
environment!(nodejs, package "index.js" "", package "greet.js" "greet");
environment!(perl, package "main.pl" "", package "greet.pl" "greet.main");
environment!(php, package "index.php" "", package "greet.php" "greet.handler");
environment!(python, package "main.py" "", package "greet.py" "greet.main");
environment!(ruby, package "handler.rb" "", package "greet.rb" "greet.handler");
environment!(rust);

/// Python imports what functions need while nothing comes; a package may have modules of the same
/// names. Which one a function gets must not depend on when its code comes.
#[tokio::test]
async fn python_modules_do_not_depend_on_the_moment() -> Result<()> {
    let subject = Subject::start("python").await?;
    let package = subject.place_in_directory("whose", "main.py")?;
    std::fs::write(package.join("flask.py"), "")?;
    // At once, before most of it is imported.
    let answer = subject.load(&package, "").await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let told = subject.call(Method::GET, "/", &[], "").await?;
    assert!(
        told.text().starts_with("/usr/lib/python"),
        "{}",
        told.text()
    );
    Ok(())
}
