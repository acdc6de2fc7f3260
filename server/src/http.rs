//! Everything that is no WebSocket: the page, the probes, the operator's metrics and version.

use std::{sync::Arc, time::Duration};

use actix_web::{
    Error, HttpRequest, HttpResponse, Responder,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{self, HeaderValue},
    middleware::Next,
    web::{self, Data, ServiceConfig},
};
use serde_json::json;

use crate::{
    admission::{Admission, Closed},
    drain,
    handshake::{self, COLOUR, REQUEST_ID, Refusal},
    hub::Alive,
    lease::Desk,
    records::Records,
    telemetry::{RequestId, Telemetry},
};

/// A Hub that does not answer within this time is not alive.
const LIVENESS_TIMEOUT: Duration = Duration::from_secs(1);

/// The page loads its own script and style, and talks to its own host.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// What the routes of both listeners know.
#[derive(Clone)]
pub struct Site {
    pub desk: Arc<Desk>,
    pub admission: Arc<Admission>,
    pub telemetry: Arc<Telemetry>,
    pub records: Records,
    pub colour: HeaderValue,
    pub allowed_origins: Arc<[String]>,
    /// Which kind of store keeps the sessions.
    pub store: &'static str,
}

impl Site {
    /// Whether the store answers, in a word.
    pub fn store_state(&self) -> &'static str {
        if self.desk.keeper.up() { "up" } else { "down" }
    }
}

/// Routes of the public listener. WebSockets themselves do not come by here.
pub fn public(routes: &mut ServiceConfig) {
    probes(routes);
    routes
        .route("/ws/chat/", web::route().to(no_websocket))
        .route("/ws/chat", web::route().to(no_websocket))
        .route("/", web::get().to(page))
        .route("/page.css", web::get().to(style))
        .route("/page.js", web::get().to(script));
}

/// Routes of the operator's listener.
pub fn operator(routes: &mut ServiceConfig) {
    probes(routes);
    drain::routes(routes);
    routes
        .route("/metrics", web::get().to(metrics))
        .route("/version", web::get().to(version));
}

fn probes(routes: &mut ServiceConfig) {
    routes
        .route("/healthz", web::get().to(healthz))
        .route("/readyz", web::get().to(readyz));
}

/// Alive is who can still ask the Hub.
async fn healthz(site: Data<Site>) -> impl Responder {
    let answer = actix_rt::time::timeout(LIVENESS_TIMEOUT, site.desk.hub.send(Alive)).await;
    if matches!(answer, Ok(Ok(()))) {
        HttpResponse::Ok().json(json!({"status": "alive"}))
    } else {
        site.telemetry.hub_behind();
        HttpResponse::ServiceUnavailable().json(json!({"status": "hub does not answer"}))
    }
}

/// Ready is who takes new connections. That goes on without the store.
async fn readyz(site: Data<Site>) -> impl Responder {
    let (mut answer, status) = if site.admission.draining() {
        (HttpResponse::ServiceUnavailable(), "draining")
    } else {
        (HttpResponse::Ok(), "ready")
    };
    answer.json(json!({"status": status, "store": site.store_state()}))
}

async fn metrics(site: Data<Site>) -> impl Responder {
    site.records.show(&site.telemetry.metrics);
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(site.telemetry.metrics.render())
}

async fn version(site: Data<Site>) -> impl Responder {
    HttpResponse::Ok().json(json!({
        "version": crate::VERSION,
        "revision": crate::REVISION,
        "colour": site.colour.to_str().unwrap_or_default(),
        "store": site.store,
    }))
}

fn asset(content_type: &'static str, body: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .content_type(content_type)
        .insert_header((header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .body(body)
}

async fn page() -> impl Responder {
    asset(
        "text/html; charset=utf-8",
        include_str!("../page/index.html"),
    )
}

async fn style() -> impl Responder {
    asset("text/css; charset=utf-8", include_str!("../page/page.css"))
}

async fn script() -> impl Responder {
    asset(
        "text/javascript; charset=utf-8",
        include_str!("../page/page.js"),
    )
}

/// A request for the WebSocket's address that the upgrade hook did not take.
async fn no_websocket(request: HttpRequest, site: Data<Site>) -> impl Responder {
    let refusal = handshake::check(request.head(), &site.allowed_origins, || {
        // A place is of no use here; only a closed door is worth telling.
        if site.admission.draining() {
            Err(Closed::Draining)
        } else {
            Ok(())
        }
    })
    .err()
    .unwrap_or(Refusal::Upgrade);
    let request_id = request_id(request.headers());
    site.telemetry.handshake_refused(&request_id, &refusal);
    let mut response = HttpResponse::build(refusal.status());
    for header in refusal.headers() {
        response.insert_header(header);
    }
    response
        .insert_header((REQUEST_ID.clone(), request_id.to_string()))
        .content_type("application/problem+json")
        .body(refusal.problem())
}

fn request_id(headers: &header::HeaderMap) -> RequestId {
    let given = headers.get(&REQUEST_ID).and_then(|id| id.to_str().ok());
    RequestId::new(given)
}

/// Puts the request's id and the colour on every answer.
pub async fn sign(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let request_id = request_id(request.headers());
    let colour = request
        .app_data::<Data<Site>>()
        .map(|site| site.colour.clone());
    let mut response = next.call(request).await?;
    let headers = response.headers_mut();
    if let (false, Ok(id)) = (
        headers.contains_key(&REQUEST_ID),
        HeaderValue::from_str(&request_id.to_string()),
    ) {
        headers.insert(REQUEST_ID.clone(), id);
    }
    if let Some(colour) = colour {
        headers.insert(COLOUR.clone(), colour);
    }
    Ok(response)
}
