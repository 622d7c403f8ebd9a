//! The fetcher's requests, and its specialisation at the start.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use farplane_functions_types::wire::{
    FETCHER_STATE, FetchRequest, QUIET, SpecializeRequest, UploadRequest,
};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::api::Api;
use super::archive_source::bring;
use super::claim::Claims;
use super::place::{Placement, place};
use super::quiet::quiet;
use super::settings::Settings;
use super::{Error, load, references, upload};
use crate::archive::name;
use crate::http::{self, BodyError, Reply};

const COMPONENT: &str = "fetcher";
/// How long a probe is held; it is given up after 10 s.
const HOLD: Duration = Duration::from_secs(8);
/// Longest pause between attempts to specialise at the start.
const STARTUP_PAUSE: Duration = Duration::from_secs(30);

/// Serves until the shutdown.
pub async fn serve(
    settings: Settings,
    client: Option<kube::Client>,
    listener: TcpListener,
    shutdown: CancellationToken,
) {
    let fetcher = Arc::new(Fetcher::new(settings, client));
    let startup = tokio::spawn({
        let (fetcher, shutdown) = (Arc::clone(&fetcher), shutdown.clone());
        async move {
            tokio::select! {
                () = fetcher.at_startup() => {}
                () = shutdown.cancelled() => {}
            }
        }
    });
    http::serve(listener, shutdown, move |request| {
        let fetcher = Arc::clone(&fetcher);
        async move { fetcher.answer(request).await }
    })
    .await;
    startup.abort();
}

struct Fetcher {
    settings: Settings,
    api: Api,
    claims: Mutex<Claims>,
    /// Whether calls may come.
    readiness: watch::Sender<Readiness>,
}

/// Whether calls may come.
#[derive(Clone, Debug)]
enum Readiness {
    Ready,
    /// The runtime starts, or the code is on its way for the first time.
    Loading,
    /// It did not load; it is tried again.
    Failed(String),
}

impl Fetcher {
    fn new(settings: Settings, client: Option<kube::Client>) -> Self {
        let readiness = match settings.startup {
            Some(_) => Readiness::Loading,
            None if settings.wait_for_runtime => Readiness::Loading,
            None => Readiness::Ready,
        };
        Self {
            api: Api::new(&settings.namespace, client),
            claims: Mutex::new(Claims::of(&settings.shared)),
            readiness: watch::Sender::new(readiness),
            settings,
        }
    }

    fn claims(&self) -> std::sync::MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Reply {
        let post = request.method() == Method::POST;
        let get = request.method() == Method::GET;
        let path = request.uri().path().to_owned();
        let reply = match path.as_str() {
            "/healthz" => return http::empty(StatusCode::OK),
            "/readiness-healthz" => return self.readiness().await,
            "/version" => return http::version(),
            "/specialize" if post => self.specialize(request).await,
            "/fetch" if post => self.fetch(request).await,
            "/upload" if post => self.upload(request).await,
            FETCHER_STATE if get => self.state(request).await,
            "/wsevent/start" | "/wsevent/end" if get => self.event(request, &path).await,
            QUIET if get => return self.quiet().await,
            "/specialize" | "/fetch" | "/upload" => return http::method_not_allowed("POST"),
            FETCHER_STATE | QUIET | "/wsevent/start" | "/wsevent/end" => {
                return http::method_not_allowed("GET");
            }
            _ => return http::failure(StatusCode::NOT_FOUND, COMPONENT, "there is no such path"),
        };
        reply.unwrap_or_else(|error| error.reply(COMPONENT))
    }

    /// A runtime that starts and code that is loading for the first time are waited for: a probe
    /// that fails is repeated a second later, and most take less.
    async fn readiness(&self) -> Reply {
        let mut seen = self.readiness.subscribe();
        let settled = seen.wait_for(|now| !matches!(now, Readiness::Loading));
        let now = match timeout(HOLD, settled).await {
            Ok(Ok(now)) => now.clone(),
            _ => Readiness::Loading,
        };
        let reason = match now {
            Readiness::Ready => return http::empty(StatusCode::OK),
            Readiness::Loading => "not loaded yet".to_owned(),
            Readiness::Failed(reason) => reason,
        };
        http::failure(StatusCode::SERVICE_UNAVAILABLE, COMPONENT, reason)
    }

    /// Answers when the Pod may be stopped: at once when it never got code.
    async fn quiet(&self) -> Reply {
        let begun = self.claims().state().begun;
        if begun {
            let port = self.settings.runtime.port();
            quiet(Path::new("/proc/self"), port).await;
        }
        tracing::info!(begun, "the Pod ends, and nobody calls it");
        http::empty(StatusCode::OK)
    }

    async fn state(&self, request: Request<Incoming>) -> Result<Reply, BodyError> {
        http::body(request, &self.settings.key).await?;
        Ok(http::json(StatusCode::OK, &self.claims().state()))
    }

    async fn specialize(self: Arc<Self>, request: Request<Incoming>) -> Result<Reply, BodyError> {
        let request: SpecializeRequest = http::read(request, &self.settings.key).await?;
        if let Err(taken) = self.claims().begin(&request) {
            return Ok(outcome(Err(taken.into())));
        }
        // Goes on when the caller is gone: an executor that takes over asks how it went.
        let task = tokio::spawn(async move { self.run(&request).await });
        Ok(outcome(task.await.unwrap_or(Err(Error::Stopped))))
    }

    async fn fetch(&self, request: Request<Incoming>) -> Result<Reply, BodyError> {
        let request: FetchRequest = http::read(request, &self.settings.key).await?;
        let fetched = async {
            self.bring(&request).await?;
            references::write(&self.settings, &self.api, &request).await
        };
        Ok(outcome(fetched.await))
    }

    async fn upload(&self, request: Request<Incoming>) -> Result<Reply, BodyError> {
        let request: UploadRequest = http::read(request, &self.settings.key).await?;
        Ok(match upload::upload(&self.settings, &request).await {
            Ok(reply) => http::json(StatusCode::OK, &reply),
            Err(error) => outcome(Err(error)),
        })
    }

    async fn event(&self, request: Request<Incoming>, path: &str) -> Result<Reply, BodyError> {
        http::body(request, &self.settings.key).await?;
        let (reason, message) = if path.ends_with("start") {
            ("WsConnectionStarted", "a WebSocket to this Pod is open")
        } else {
            ("NoActiveConnections", "no WebSocket to this Pod is open")
        };
        Ok(outcome(
            self.api.event(&self.settings.pod, reason, message).await,
        ))
    }

    /// Brings the archive, unless it is there.
    async fn bring(&self, request: &FetchRequest) -> Result<(), Error> {
        if !name::is_plain(&request.filename) {
            return Err(Error::Filename(request.filename.clone()));
        }
        let shared = &self.settings.shared;
        if shared.join(&request.filename).symlink_metadata().is_ok() {
            return Ok(());
        }
        let source = bring(&self.settings, &self.api, request).await?;
        let placement = Placement {
            shared: shared.clone(),
            filename: request.filename.clone(),
            keep: request.keep_archive,
            limits: self.settings.limits,
        };
        place(source, placement).await
    }

    async fn run(&self, request: &SpecializeRequest) -> Result<(), Error> {
        let began = Instant::now();
        let Settings {
            runtime,
            listen_deadline,
            load_deadline,
            ..
        } = self.settings;
        let connect = load::connect(runtime, listen_deadline);
        let bring = async {
            self.bring(&request.fetch).await?;
            references::write(&self.settings, &self.api, &request.fetch).await
        };
        // The runtime accepts while the code is put in place. Only for code that is at hand:
        // many servers close a connection on which nothing comes for seconds.
        let connection = if is_at_hand(&request.fetch) {
            let connecting = tokio::spawn(connect);
            bring.await?;
            connecting.await.map_err(|_| Error::Stopped)??
        } else {
            bring.await?;
            connect.await?
        };
        let brought = began.elapsed();
        load::load(connection, runtime, &request.load, load_deadline).await?;
        self.claims().loaded(request.function.clone());
        let (brought, took) = (brought.as_micros(), began.elapsed().as_micros());
        tracing::info!(brought, took, "specialised (microseconds)");
        Ok(())
    }

    /// Says that the Pod is ready once its runtime listens.
    async fn listening(&self) {
        let (runtime, deadline) = (self.settings.runtime, self.settings.listen_deadline);
        while let Err(error) = load::connect(runtime, deadline).await {
            tracing::warn!(%error, "the runtime does not listen yet");
        }
        self.readiness.send_replace(Readiness::Ready);
    }

    async fn at_startup(&self) {
        let Some(request) = self.settings.startup.as_deref() else {
            if self.settings.wait_for_runtime {
                self.listening().await;
            }
            return;
        };
        let restarted = self.claims().begin(request).is_err();
        let mut pause = Duration::from_millis(500);
        loop {
            match self.run(request).await {
                Ok(()) => break,
                // This process was restarted, the runtime was not.
                Err(Error::Refused { status, .. })
                    if restarted && status == StatusCode::BAD_REQUEST =>
                {
                    tracing::info!("the runtime says that it has its code already");
                    break;
                }
                Err(error) => {
                    tracing::error!(%error, component = error.component(), "not loaded");
                    let failed = Readiness::Failed(error.to_string());
                    self.readiness.send_replace(failed);
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(STARTUP_PAUSE);
        }
        self.readiness.send_replace(Readiness::Ready);
    }
}

fn is_at_hand(request: &FetchRequest) -> bool {
    let literal = request
        .archive
        .as_ref()
        .is_some_and(|archive| !archive.literal.is_empty());
    literal && request.secret_list.is_empty() && request.config_map_list.is_empty()
}

fn outcome(result: Result<(), Error>) -> Reply {
    match result {
        Ok(()) => http::empty(StatusCode::OK),
        Err(error) => {
            let (status, component) = (error.status(), error.component());
            tracing::warn!(%error, component, %status, "refused");
            match error {
                Error::Refused { body, .. } => http::failure(status, component, body),
                other => http::failure(status, component, other.to_string()),
            }
        }
    }
}
