// gws: the same, on the library that promises more for less. Its broadcaster encodes a beat once.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/lxzan/gws"
)

// handler is told what happens to sockets, and keeps them all.
type handler struct {
	gws.BuiltinEventHandler
	sockets sync.Map
}

type count struct{ number uint64 }

func (h *handler) OnOpen(socket *gws.Conn) {
	socket.Session().Store("count", &count{})
	h.sockets.Store(socket, nil)
}

// OnClose comes after the library has answered the peer's Close: no bye fits in before it.
func (h *handler) OnClose(socket *gws.Conn, _ error) { h.sockets.Delete(socket) }

func (h *handler) OnPing(socket *gws.Conn, payload []byte) { socket.WritePong(payload) }

func (h *handler) OnMessage(socket *gws.Conn, message *gws.Message) {
	defer message.Close()
	c := counted(socket)
	c.number++
	socket.WriteString(fmt.Sprintf(`{"count":%d}`, c.number))
}

func counted(socket *gws.Conn) *count {
	c, _ := socket.Session().Load("count")
	return c.(*count)
}

func (h *handler) each(act func(*gws.Conn)) (number int) {
	h.sockets.Range(func(socket, _ any) bool {
		act(socket.(*gws.Conn))
		number++
		return true
	})
	return
}

func (h *handler) beat(interval time.Duration) {
	for now := range time.Tick(interval) {
		text := fmt.Sprintf(`{"ts":"%s"}`, now.UTC().Format("2006-01-02T15:04:05.000Z"))
		broadcaster := gws.NewBroadcaster(gws.OpcodeText, []byte(text))
		h.each(func(socket *gws.Conn) { broadcaster.Broadcast(socket) })
		broadcaster.Close()
	}
}

func goodbye(socket *gws.Conn) {
	socket.WriteString(fmt.Sprintf(`{"bye":true,"total":%d}`, counted(socket).number))
	socket.WriteClose(1001, nil)
}

func main() {
	milliseconds, _ := strconv.Atoi(os.Args[2])
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		panic(err)
	}
	h := &handler{}
	upgrader := gws.NewUpgrader(h, &gws.ServerOption{ReadBufferSize: 1024, WriteBufferSize: 1024})
	http.HandleFunc("/ws/chat/", func(response http.ResponseWriter, request *http.Request) {
		if socket, err := upgrader.Upgrade(response, request); err == nil {
			// Not within the handler, whose buffers net/http would keep, as its README advises.
			go socket.ReadLoop()
		}
	})
	go http.Serve(listener, nil)
	go h.beat(time.Duration(milliseconds) * time.Millisecond)
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	<-term
	for h.each(goodbye) > 0 {
		time.Sleep(10 * time.Millisecond)
	}
}
