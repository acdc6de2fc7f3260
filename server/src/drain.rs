//! `/drain` on the operator's listener: sends the connections away at a rate, and takes that back.

use actix_web::{
    HttpResponse, Responder,
    web::{self, Data, Query, ServiceConfig},
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    http::Site,
    hub::{PacedDrain, StopDrain},
};

/// Sockets a second, unless the request says otherwise.
const RATE: u32 = 500;

/// A worker is told of a portion at once, so a portion stays small.
const RATE_MAX: u32 = 100_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    rate: Option<String>,
}

pub fn routes(routes: &mut ServiceConfig) {
    routes.service(
        web::resource("/drain")
            .route(web::get().to(state))
            .route(web::post().to(begin))
            .route(web::delete().to(take_back)),
    );
}

fn problem(status: actix_web::http::StatusCode, detail: &str) -> HttpResponse {
    let title = status.canonical_reason().unwrap_or_default();
    HttpResponse::build(status)
        .content_type("application/problem+json")
        .body(json!({"title": title, "status": status.as_u16(), "detail": detail}).to_string())
}

fn final_drain() -> HttpResponse {
    problem(
        actix_web::http::StatusCode::CONFLICT,
        "The process has been told to end and cannot take that back; start it again.",
    )
}

fn told(site: &Site, mut response: actix_web::HttpResponseBuilder) -> HttpResponse {
    response.json(json!({
        "draining": site.admission.draining(),
        "connections": site.admission.open(),
        "store": site.store_state(),
    }))
}

/// `{"draining":false,"connections":n,"store":"up"}`: connections that are still open; while the
/// store is down, nobody is sent away.
async fn state(site: Data<Site>) -> impl Responder {
    told(&site, HttpResponse::Ok())
}

fn wished_rate(wish: &Wish) -> Option<u32> {
    match &wish.rate {
        None => Some(RATE),
        Some(text) => text
            .parse()
            .ok()
            .filter(|rate| (1..=RATE_MAX).contains(rate)),
    }
}

/// Closes the door and begins to send everybody away. A second request changes the rate.
async fn begin(site: Data<Site>, wish: Result<Query<Wish>, actix_web::Error>) -> impl Responder {
    let rate = wish.ok().and_then(|wish| wished_rate(&wish));
    let Some(rate) = rate else {
        return problem(
            actix_web::http::StatusCode::BAD_REQUEST,
            "The one parameter is `rate`: connections a second, a whole number from 1 to 100000.",
        );
    };
    if !site.admission.pause() {
        return final_drain();
    }
    site.telemetry
        .paced_drain_began(rate, site.admission.open());
    site.desk.hub.do_send(PacedDrain { rate });
    told(&site, HttpResponse::Accepted())
}

/// Who is still there stays, and who comes is welcome again.
async fn take_back(site: Data<Site>) -> impl Responder {
    let drained = site.admission.draining();
    // The Hub first: with the door open again, nobody may be sent away any more.
    if site.desk.hub.send(StopDrain).await.is_err() || !site.admission.reopen() {
        return final_drain();
    }
    if drained {
        site.telemetry.paced_drain_taken_back(site.admission.open());
    }
    told(&site, HttpResponse::Ok())
}
