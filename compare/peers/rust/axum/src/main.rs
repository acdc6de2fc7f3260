//! axum with its own WebSocket, on one thread. The small read buffer is what axum advises for many
//! sockets that say little; its default of 128 KiB a socket is for few that say much.

use std::time::Duration;

use axum::{
    Router,
    extract::{
        State, WebSocketUpgrade,
        ws::{CloseFrame, Message, Utf8Bytes, WebSocket},
    },
    response::Response,
    routing::get,
    serve::ListenerExt,
};
use tokio::{
    net::TcpSocket,
    select,
    signal::unix::{SignalKind, signal},
    sync::broadcast::{Sender, channel},
    time::{Instant, interval_at, sleep},
};

#[derive(Clone)]
enum News {
    Beat(Utf8Bytes),
    Dismissed,
}

async fn upgrade(upgrade: WebSocketUpgrade, State(news): State<Sender<News>>) -> Response {
    let upgrade = upgrade.read_buffer_size(4096).write_buffer_size(0);
    upgrade.on_upgrade(|socket| async move {
        let _ = serve(socket, news).await;
    })
}

async fn serve(mut socket: WebSocket, news: Sender<News>) -> Result<(), axum::Error> {
    let mut news = news.subscribe();
    let mut count = 0_u64;
    loop {
        select! {
            message = socket.recv() => match message {
                Some(Ok(Message::Text(_))) => {
                    count += 1;
                    let answer = format!("{{\"count\":{count}}}");
                    socket.send(Message::text(answer)).await?;
                }
                // The library has answered a Close by then: no bye fits in before it.
                Some(Ok(_)) => {}
                _ => return Ok(()),
            },
            news = news.recv() => match news {
                Ok(News::Beat(beat)) => socket.send(Message::Text(beat)).await?,
                _ => break,
            },
        }
    }
    let bye = format!("{{\"bye\":true,\"total\":{count}}}");
    socket.send(Message::text(bye)).await?;
    let close = CloseFrame {
        code: 1001,
        reason: "".into(),
    };
    socket.send(Message::Close(Some(close))).await?;
    while socket.recv().await.is_some() {}
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().unwrap().parse().unwrap();
    let interval = Duration::from_millis(arguments.next().unwrap().parse().unwrap());
    let (news, _) = channel(16);
    let application = Router::new()
        .route("/ws/chat/", get(upgrade))
        .with_state(news.clone());
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(([127, 0, 0, 1], port).into()).unwrap();
    let listener = socket.listen(4096).unwrap();
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
    tokio::spawn(async move { axum::serve(listener, application).await });
    let mut term = signal(SignalKind::terminate()).unwrap();
    let mut beats = interval_at(Instant::now() + interval, interval);
    loop {
        select! {
            _ = beats.tick() => {
                let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
                let _ = news.send(News::Beat(format!("{{\"ts\":\"{now}\"}}").into()));
            }
            _ = term.recv() => break,
        }
    }
    let _ = news.send(News::Dismissed);
    while news.receiver_count() > 0 {
        sleep(Duration::from_millis(10)).await;
    }
}
