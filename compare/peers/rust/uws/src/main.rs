//! uWebSockets through `uwebsockets_rs`, which builds it on libuv. No compression, no timeouts: its
//! cheapest self.

use std::{cell::RefCell, thread, time::Duration};

use uwebsockets_rs::{
    app::App,
    http_request::HttpRequest,
    http_response::HttpResponse,
    listen_socket::ListenSocket,
    us_socket_context_options::UsSocketContextOptions,
    uws_loop::{get_loop, loop_defer},
    websocket::{Opcode, WebSocket},
    websocket_behavior::{CompressOptions, UpgradeContext, WebSocketBehavior},
};

/// What a socket carries: its count, and its place among all sockets.
struct Chat {
    count: u64,
    place: usize,
}

thread_local! {
    static SOCKETS: RefCell<Vec<WebSocket>> = const { RefCell::new(Vec::new()) };
}

fn chat(socket: &WebSocket) -> &mut Chat {
    socket
        .get_user_data::<Chat>()
        .expect("set with the upgrade")
}

fn upgrade(response: HttpResponse, request: HttpRequest, context: UpgradeContext) {
    let key = request.get_header("sec-websocket-key").unwrap_or_default();
    let chat = Box::leak(Box::new(Chat { count: 0, place: 0 }));
    response.upgrade(key, None, None, context, Some(chat));
}

fn open(socket: WebSocket) {
    SOCKETS.with_borrow_mut(|sockets| {
        chat(&socket).place = sockets.len();
        sockets.push(socket);
    });
}

fn message(socket: WebSocket, _: &[u8], _: Opcode) {
    let chat = chat(&socket);
    chat.count += 1;
    let answer = format!("{{\"count\":{}}}", chat.count);
    socket.send(answer.as_bytes(), Opcode::Text);
}

/// The peer's Close is answered before this is called: no bye fits in before it.
fn closed(socket: WebSocket, _: i32, _: Option<&str>) {
    let chat: *mut Chat = chat(&socket);
    SOCKETS.with_borrow_mut(|sockets| {
        // SAFETY: leaked by `upgrade`, and this is the last call for its socket.
        let gone = unsafe { Box::from_raw(chat) };
        sockets.swap_remove(gone.place);
        if let Some(moved) = sockets.get(gone.place) {
            self::chat(moved).place = gone.place;
        }
    });
}

fn beat() {
    let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let beat = format!("{{\"ts\":\"{now}\"}}");
    SOCKETS.with_borrow(|sockets| {
        for socket in sockets {
            socket.send(beat.as_bytes(), Opcode::Text);
        }
    });
}

/// `end` calls `closed` at once, so the sockets are taken from the end of the list, one by one.
fn dismiss() {
    while let Some(socket) = SOCKETS.with_borrow(|sockets| sockets.last().cloned()) {
        let bye = format!("{{\"bye\":true,\"total\":{}}}", chat(&socket).count);
        socket.send(bye.as_bytes(), Opcode::Text);
        socket.end(1001, None);
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let port: i32 = arguments.next().unwrap().parse().unwrap();
    let interval = Duration::from_millis(arguments.next().unwrap().parse().unwrap());
    let behaviour = WebSocketBehavior {
        compression: CompressOptions::Disabled.into(),
        max_payload_length: 65_536,
        idle_timeout: 0,
        max_backpressure: 1 << 20,
        close_on_backpressure_limit: false,
        reset_idle_timeout_on_send: false,
        send_pings_automatically: false,
        max_lifetime: 0,
        upgrade: Some(Box::new(upgrade)),
        open: Some(Box::new(open)),
        message: Some(Box::new(message)),
        ping: None,
        pong: None,
        close: Some(Box::new(closed)),
        drain: None,
        subscription: None,
    };
    let main_loop = get_loop();
    thread::spawn(move || {
        loop {
            thread::sleep(interval);
            loop_defer(main_loop, beat);
        }
    });
    let mut term = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM]).unwrap();
    thread::spawn(move || {
        for _ in term.forever() {
            loop_defer(main_loop, dismiss);
            // The loop has nothing to tell when the last socket has ended; it is given a second.
            thread::sleep(Duration::from_secs(1));
            std::process::exit(0);
        }
    });
    App::new(UsSocketContextOptions {
        key_file_name: None,
        cert_file_name: None,
        passphrase: None,
        dh_params_file_name: None,
        ca_file_name: None,
        ssl_ciphers: None,
        ssl_prefer_low_memory_usage: None,
    })
    .ws("/ws/chat/", behaviour)
    .listen(port, None::<fn(ListenSocket)>)
    .run();
}
