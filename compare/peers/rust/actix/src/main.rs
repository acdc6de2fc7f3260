//! actix-web-actors as its documentation shows it: `ws::start`, an actor a socket, and a hub that
//! tells each of them by message.

use std::{collections::HashMap, time::Duration};

use actix::prelude::*;
use actix_web::{App, Error, HttpRequest, HttpResponse, HttpServer, web};
use actix_web_actors::ws;

#[derive(Message, Clone)]
#[rtype(result = "()")]
enum News {
    Beat(String),
    Dismissed,
}

#[derive(Message)]
#[rtype(result = "usize")]
struct Join(Addr<Chat>);

#[derive(Message)]
#[rtype(result = "()")]
struct Leave(usize);

#[derive(Message)]
#[rtype(result = "usize")]
struct Dismiss;

struct Hub {
    interval: Duration,
    sockets: HashMap<usize, Addr<Chat>>,
    next: usize,
}

impl Actor for Hub {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(1 << 16);
        context.run_interval(self.interval, |hub, _| {
            let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
            hub.tell(&News::Beat(format!("{{\"ts\":\"{now}\"}}")));
        });
    }
}

impl Hub {
    fn tell(&self, news: &News) {
        for socket in self.sockets.values() {
            socket.do_send(news.clone());
        }
    }
}

impl Handler<Join> for Hub {
    type Result = usize;

    fn handle(&mut self, join: Join, _: &mut Self::Context) -> usize {
        self.next += 1;
        self.sockets.insert(self.next, join.0);
        self.next
    }
}

impl Handler<Leave> for Hub {
    type Result = ();

    fn handle(&mut self, leave: Leave, _: &mut Self::Context) {
        self.sockets.remove(&leave.0);
    }
}

/// Answers with how many are still there, and sends them away.
impl Handler<Dismiss> for Hub {
    type Result = usize;

    fn handle(&mut self, _: Dismiss, _: &mut Self::Context) -> usize {
        self.tell(&News::Dismissed);
        self.sockets.len()
    }
}

struct Chat {
    hub: Addr<Hub>,
    id: usize,
    count: u64,
    leaving: bool,
}

impl Chat {
    fn goodbye(
        &mut self,
        reason: Option<ws::CloseReason>,
        context: &mut ws::WebsocketContext<Self>,
    ) {
        if !std::mem::replace(&mut self.leaving, true) {
            context.text(format!("{{\"bye\":true,\"total\":{}}}", self.count));
            context.close(reason);
        }
    }
}

impl Actor for Chat {
    type Context = ws::WebsocketContext<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let join = self.hub.send(Join(context.address())).into_actor(self);
        join.then(|id, chat, context| {
            match id {
                Ok(id) => chat.id = id,
                Err(_) => context.stop(),
            }
            fut::ready(())
        })
        .wait(context);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.hub.do_send(Leave(self.id));
    }
}

impl Handler<News> for Chat {
    type Result = ();

    fn handle(&mut self, news: News, context: &mut Self::Context) {
        match news {
            News::Beat(beat) => context.text(beat),
            News::Dismissed => self.goodbye(Some(ws::CloseCode::Away.into()), context),
        }
    }
}

impl StreamHandler<Result<ws::Message, ws::ProtocolError>> for Chat {
    fn handle(
        &mut self,
        message: Result<ws::Message, ws::ProtocolError>,
        context: &mut Self::Context,
    ) {
        match message {
            Ok(ws::Message::Text(_)) => {
                self.count += 1;
                context.text(format!("{{\"count\":{}}}", self.count));
            }
            Ok(ws::Message::Ping(payload)) => context.pong(&payload),
            Ok(ws::Message::Close(reason)) => {
                self.goodbye(reason, context);
                context.stop();
            }
            Ok(_) => {}
            Err(_) => context.stop(),
        }
    }
}

async fn chat(
    request: HttpRequest,
    stream: web::Payload,
    hub: web::Data<Addr<Hub>>,
) -> Result<HttpResponse, Error> {
    let hub = hub.get_ref().clone();
    let (id, count, leaving) = (0, 0, false);
    ws::start(
        Chat {
            hub,
            id,
            count,
            leaving,
        },
        &request,
        stream,
    )
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().unwrap().parse().unwrap();
    let interval = Duration::from_millis(arguments.next().unwrap().parse().unwrap());
    let sockets = HashMap::new();
    let hub = Hub {
        interval,
        sockets,
        next: 0,
    }
    .start();
    let shared = hub.clone();
    // A server that gets the signal waits for its sockets; the hub sends them away meanwhile.
    let dismissed = async move {
        let mut term = actix_web::rt::signal::unix::signal(
            actix_web::rt::signal::unix::SignalKind::terminate(),
        )
        .unwrap();
        term.recv().await;
        while hub.send(Dismiss).await.unwrap_or(0) > 0 {
            actix_web::rt::time::sleep(Duration::from_millis(10)).await;
        }
    };
    HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(shared.clone()))
            .route("/ws/chat/", web::get().to(chat))
    })
    .workers(1)
    .backlog(4096)
    .tcp_nodelay(true)
    .shutdown_signal(dismissed)
    .bind(("127.0.0.1", port))?
    .run()
    .await
}
