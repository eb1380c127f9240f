//! The HTTP binding of DID Resolution v1 (section "HTTP(S) Binding", Candidate Recommendation of 23 July 2026), in the form
//! that drivers of DIF's Universal Resolver have.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use beacon_btcr2::{Error, ErrorCode, Network, ResolutionOptions};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use url::form_urlencoded;

use super::server::Caller;
use super::{Answer, Progress, Sources, Verdict};
use crate::rates::{Buckets, Rate};

/// How long a request's body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(20);
/// Requests at once from one address, in seconds of its rate.
const BURST: u64 = 10;
/// Addresses whose rate is remembered.
const MAX_ADDRESSES: usize = 65_536;
/// The media type of a DID resolution result, and what older clients call it.
const RESULT: &str = "application/did-resolution";
const OLD_RESULT: &str = "application/ld+json;profile=\"https://w3id.org/did-resolution\"";

/// What is bounded in answering requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) resolutions: u32,
    pub(super) time: Duration,
    pub(super) body: usize,
    pub(super) requests_per_s: u32,
}

/// What requests are answered with.
pub(super) struct Service {
    agent: String,
    sources: Arc<Sources>,
    network: Option<Network>,
    bounds: Bounds,
    turns: Arc<Semaphore>,
    paces: Mutex<Buckets<IpAddr>>,
}

impl Service {
    pub(super) fn new(
        agent: &str,
        sources: Sources,
        network: Option<Network>,
        bounds: Bounds,
    ) -> Self {
        let per_s = u64::from(bounds.requests_per_s);
        Self {
            agent: agent.to_owned(),
            sources: Arc::new(sources),
            network,
            bounds,
            turns: Arc::new(Semaphore::new(bounds.resolutions as usize)),
            paces: Mutex::new(Buckets::new(
                Rate::new(per_s, per_s.saturating_mul(BURST)),
                MAX_ADDRESSES,
            )),
        }
    }
}

pub(super) fn routes(service: Service) -> Router {
    Router::new()
        .route(
            "/1.0/identifiers/{*did}",
            get(identifiers).post(identifiers),
        )
        .route("/1.0/properties", get(properties))
        .route("/1.0/methods", get(methods))
        .route("/health", get(health))
        .fallback(unknown_path)
        .with_state(Arc::new(service))
}

async fn identifiers(
    State(service): State<Arc<Service>>,
    Extension(Caller(ip)): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let pace = {
        let mut paces = service.paces.lock().unwrap_or_else(PoisonError::into_inner);
        paces.take(ip, 1, Instant::now())
    };
    if let Err(wait) = pace {
        return busy(
            StatusCode::TOO_MANY_REQUESTS,
            wait,
            "too many requests from this address",
        );
    }
    let Ok(Path(did)) = path else {
        return with_error(
            StatusCode::BAD_REQUEST,
            ErrorCode::InvalidDid.as_str(),
            "got bytes that are not UTF-8 in the path, expected a DID",
        );
    };
    let Some(form) = Form::asked_for(&headers) else {
        let message = format!(
            "got no media type in Accept that is served, expected {RESULT} or application/did"
        );
        return with_error(
            StatusCode::NOT_ACCEPTABLE,
            "REPRESENTATION_NOT_SUPPORTED",
            &message,
        );
    };
    let query = query.unwrap_or_default();
    let asked = if method == Method::POST {
        match read(body, service.bounds.body).await {
            Ok(_) if !query.is_empty() => Asked::Wrong(
                "got options in the query of a POST, expected them in its body".to_owned(),
            ),
            Ok(body) => Asked::Body(body),
            Err(refusal) => return refusal,
        }
    } else {
        Asked::Query(query)
    };
    match service.resolve(did, asked).await {
        Ok(answer) => form.response(&answer),
        Err(refusal) => refusal,
    }
}

/// The options of a request.
enum Asked {
    Query(String),
    Body(Vec<u8>),
    Wrong(String),
}

impl Service {
    /// Waits for a turn and resolves, or says why not.
    async fn resolve(&self, did: String, asked: Asked) -> Result<Answer, Response> {
        let deadline = Instant::now() + self.bounds.time;
        let turn = timeout_at(deadline, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(busy(
                StatusCode::SERVICE_UNAVAILABLE,
                Duration::from_secs(1),
                "too many resolutions are under way",
            ));
        };
        let waiting = Waiting(Arc::default());
        let (sources, progress) = (Arc::clone(&self.sources), Arc::clone(&waiting.0));
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            match asked.options() {
                Ok(options) => Answer::to(&did, options, &sources, &progress),
                Err(problem) => {
                    Answer::failed(Verdict::Failed(ErrorCode::InvalidOptions), &problem)
                }
            }
        });
        let internal =
            |message: &str| Answer::failed(Verdict::Failed(ErrorCode::InternalError), message);
        Ok(match timeout_at(deadline, work).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::error!(%error, "a resolution failed");
                internal("the resolution failed")
            }
            Err(_) => internal(&format!(
                "got no result in {} seconds: the chain source is slow, or the history of the DID is long",
                self.bounds.time.as_secs()
            )),
        })
    }
}

/// Gives a resolution up as soon as nobody waits for it.
struct Waiting(Arc<Progress>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

impl Asked {
    /// The options, or the error that they are; as a text where they are not even that.
    fn options(self) -> Result<Result<ResolutionOptions, Error>, String> {
        match self {
            Self::Wrong(problem) => Err(problem),
            Self::Body(body) if body.iter().all(u8::is_ascii_whitespace) => {
                Ok(Ok(ResolutionOptions::default()))
            }
            Self::Body(body) => Ok(ResolutionOptions::from_json(&body)),
            Self::Query(query) => {
                of_query(&query).map(|members| ResolutionOptions::from_value(members.into()))
            }
        }
    }
}

/// The options in a query. All are texts there; what should be a number becomes one if it can.
fn of_query(query: &str) -> Result<Map<String, Value>, String> {
    let mut members = Map::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let value = match (name.as_ref(), value.parse::<u64>()) {
            ("minConf", Ok(number)) => number.into(),
            ("sidecar", _) => {
                return Err(
                    "got sidecar in the query, expected it in the body of a POST".to_owned(),
                );
            }
            _ => Value::from(value.into_owned()),
        };
        if members.insert(name.to_string(), value).is_some() {
            return Err(format!(
                "got {name:.40} twice in the query, expected it once"
            ));
        }
    }
    Ok(members)
}

/// A request's body, or a refusal of it.
async fn read(body: Body, max: usize) -> Result<Vec<u8>, Response> {
    match timeout_at(Instant::now() + BODY_TIME, to_bytes(body, max)).await {
        Ok(Ok(body)) => Ok(body.into()),
        Ok(Err(_)) => Err(with_error(
            StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::InvalidOptions.as_str(),
            &format!(
                "got no whole body of at most {max} bytes, which is the limit of this resolver"
            ),
        )),
        Err(_) => Err(with_error(
            StatusCode::REQUEST_TIMEOUT,
            ErrorCode::InvalidOptions.as_str(),
            &format!("got no whole body in {} seconds", BODY_TIME.as_secs()),
        )),
    }
}

/// In which form an answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The whole result, under this media type.
    Result(&'static str),
    /// The document only, under this media type.
    Document(&'static str),
}

impl Form {
    /// The form that `Accept` prefers; the first of several that it likes as much. Without that header, the result.
    fn asked_for(headers: &HeaderMap) -> Option<Self> {
        let mut best: Option<(u16, Self)> = None;
        let mut values = headers.get_all(header::ACCEPT).iter().peekable();
        if values.peek().is_none() {
            return Some(Self::Result(RESULT));
        }
        for wanted in values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
        {
            let mut parts = wanted.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
            let parameters: Vec<_> = parts.collect();
            let weight = weight(&parameters);
            let form = Self::of(&media_type, &parameters).filter(|_| weight > 0);
            if let Some(form) = form
                && best.is_none_or(|(best, _)| weight > best)
            {
                best = Some((weight, form));
            }
        }
        best.map(|(_, form)| form)
    }

    fn of(media_type: &str, parameters: &[&str]) -> Option<Self> {
        let is_result = parameters.iter().any(|parameter| {
            parameter.starts_with("profile=")
                && parameter.contains("https://w3id.org/did-resolution")
        });
        Some(match media_type {
            RESULT | "*/*" | "application/*" => Self::Result(RESULT),
            "application/json" => Self::Result("application/json"),
            "application/ld+json" if is_result => Self::Result(OLD_RESULT),
            "application/ld+json" => Self::Document("application/ld+json"),
            "application/did" => Self::Document("application/did"),
            "application/did+json" => Self::Document("application/did+json"),
            "application/did+ld+json" => Self::Document("application/did+ld+json"),
            _ => return None,
        })
    }

    /// A failure is told as a result, whatever was wanted.
    fn response(self, answer: &Answer) -> Response {
        let document = &answer.result["didDocument"];
        let (media_type, body) = match self {
            Self::Document(media_type) if !document.is_null() => (media_type, document),
            Self::Result(media_type) => (media_type, &answer.result),
            Self::Document(_) => (RESULT, &answer.result),
        };
        respond(status(answer.verdict), media_type, body)
    }
}

/// A preference in thousandths; what cannot be read counts as none.
fn weight(parameters: &[&str]) -> u16 {
    let Some(text) = parameters
        .iter()
        .find_map(|parameter| parameter.strip_prefix("q="))
    else {
        return 1_000;
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{fraction:0<3}");
    match (whole, digits.parse::<u16>()) {
        ("1", _) => 1_000,
        ("0", Ok(thousandths)) if digits.len() == 3 => thousandths,
        _ => 0,
    }
}

/// The status of an answer. The specification of the method says which error of DID Resolution each of its own refines, and
/// that this one's status be sent.
fn status(verdict: Verdict) -> StatusCode {
    match verdict {
        Verdict::Resolved => StatusCode::OK,
        Verdict::Deactivated => StatusCode::GONE,
        Verdict::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Verdict::Failed(code) => match code.refines() {
            ErrorCode::InvalidDid | ErrorCode::InvalidOptions => StatusCode::BAD_REQUEST,
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::MethodNotSupported => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        },
    }
}

fn respond(status: StatusCode, media_type: &'static str, body: &Value) -> Response {
    let headers = [
        (header::CONTENT_TYPE, media_type),
        // A newer version may be announced in the next block.
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, body.to_string()).into_response()
}

fn with_error(status: StatusCode, code: &str, message: &str) -> Response {
    let result = json!({
        "didResolutionMetadata": { "error": code, "errorMessage": message },
        "didDocument": null,
        "didDocumentMetadata": {},
    });
    respond(status, RESULT, &result)
}

fn busy(status: StatusCode, wait: Duration, message: &str) -> Response {
    let seconds = wait.as_secs().saturating_add(1);
    let message = format!("{message}: try again in {seconds} s");
    let mut response = with_error(status, ErrorCode::InternalError.as_str(), &message);
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, seconds.into());
    response
}

/// What the Universal Resolver shows of a driver.
async fn properties(State(service): State<Arc<Service>>) -> Json<Value> {
    Json(json!({
        "driver": service.agent,
        "version": env!("CARGO_PKG_VERSION"),
        "methods": ["btcr2"],
        "network": service.network.map(Network::name),
        "documents": service.sources.objects.len(),
    }))
}

async fn methods() -> Json<Value> {
    Json(json!(["btcr2"]))
}

async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

async fn unknown_path() -> Response {
    (
        StatusCode::NOT_FOUND,
        "expected /1.0/identifiers/{did}, /1.0/properties, /1.0/methods or /health\n",
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn accept(text: &str) -> Option<Form> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_str(text).unwrap());
        Form::asked_for(&headers)
    }

    #[test]
    fn the_form_that_is_liked_best_is_served() {
        let result = Some(Form::Result(RESULT));
        assert_eq!(Form::asked_for(&HeaderMap::new()), result);
        for (text, form) in [
            ("application/did-resolution", result),
            ("*/*", result),
            ("text/html, application/*;q=0.5", result),
            ("Application/DID", Some(Form::Document("application/did"))),
            (
                "application/did, */*",
                Some(Form::Document("application/did")),
            ),
            ("application/did;q=0.1, */*;q=0.2", result),
            ("application/did;q=0, */*;q=0.001", result),
            ("application/json", Some(Form::Result("application/json"))),
            (
                "application/ld+json",
                Some(Form::Document("application/ld+json")),
            ),
            (
                "application/ld+json;profile=\"https://w3id.org/did-resolution\"",
                Some(Form::Result(OLD_RESULT)),
            ),
            ("text/html", None),
            ("application/did;q=0", None),
            ("application/did;q=x", None),
            ("application/did;q=0.0001", None),
            ("", None),
        ] {
            assert_eq!(accept(text), form, "{text}");
        }
    }

    #[test]
    fn options_in_a_query_are_read_once_each() {
        let options = |query: &str| Asked::Query(query.to_owned()).options();
        let read = options("versionId=2&minConf=1&unknown=x").unwrap().unwrap();
        assert_eq!(read.min_conf(), 1);
        let error = options("minConf=1.5").unwrap().unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidOptions);
        assert!(
            options("versionId=2&versionId=3")
                .unwrap_err()
                .contains("twice")
        );
        assert!(
            options("sidecar={}")
                .unwrap_err()
                .contains("body of a POST")
        );
        assert_eq!(options("").unwrap().unwrap(), ResolutionOptions::default());
        let both = options("versionId=2&versionTime=2026-01-31T23:59:59Z").unwrap();
        assert_eq!(both.unwrap_err().code, ErrorCode::InvalidOptions);
    }

    #[test]
    fn statuses_are_those_of_the_binding() {
        for (code, number) in [
            (ErrorCode::InvalidDid, 400),
            (ErrorCode::InvalidOptions, 400),
            (ErrorCode::InvalidSignalData, 400),
            (ErrorCode::NotFound, 404),
            (ErrorCode::MissingUpdateData, 404),
            (ErrorCode::InvalidDidDocument, 500),
            (ErrorCode::InvalidDidUpdate, 500),
            (ErrorCode::LatePublishing, 500),
            (ErrorCode::InternalError, 500),
            (ErrorCode::MethodNotSupported, 501),
        ] {
            assert_eq!(status(Verdict::Failed(code)).as_u16(), number, "{code}");
        }
        assert_eq!(status(Verdict::Resolved).as_u16(), 200);
        assert_eq!(status(Verdict::Deactivated).as_u16(), 410);
        assert_eq!(status(Verdict::Unsupported).as_u16(), 501);
    }
}
