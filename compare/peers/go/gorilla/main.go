// gorilla/websocket: a goroutine a socket that reads. Small buffers and a shared pool for writing,
// as its documentation advises for many sockets.
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

	"github.com/gorilla/websocket"
)

type chat struct {
	socket *websocket.Conn
	// The library allows one writer at a time.
	writing sync.Mutex
	count   uint64
	left    bool
}

var (
	sockets  sync.Map
	upgrader = websocket.Upgrader{ReadBufferSize: 1024, WriteBufferPool: &sync.Pool{}}
)

func (c *chat) say(text string) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if !c.left {
		c.socket.WriteMessage(websocket.TextMessage, []byte(text))
	}
}

func (c *chat) goodbye(code int) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.left {
		return
	}
	c.left = true
	bye := fmt.Sprintf(`{"bye":true,"total":%d}`, c.count)
	c.socket.WriteMessage(websocket.TextMessage, []byte(bye))
	c.socket.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""))
}

func serve(response http.ResponseWriter, request *http.Request) {
	socket, err := upgrader.Upgrade(response, request, nil)
	if err != nil {
		return
	}
	defer socket.Close()
	c := &chat{socket: socket}
	socket.SetCloseHandler(func(code int, _ string) error {
		c.goodbye(code)
		return nil
	})
	sockets.Store(c, nil)
	defer sockets.Delete(c)
	for {
		if _, _, err := socket.ReadMessage(); err != nil {
			return
		}
		c.count++
		c.say(fmt.Sprintf(`{"count":%d}`, c.count))
	}
}

func each(act func(*chat)) (number int) {
	sockets.Range(func(c, _ any) bool {
		act(c.(*chat))
		number++
		return true
	})
	return
}

func beat(interval time.Duration) {
	for now := range time.Tick(interval) {
		text := fmt.Sprintf(`{"ts":"%s"}`, now.UTC().Format("2006-01-02T15:04:05.000Z"))
		message, _ := websocket.NewPreparedMessage(websocket.TextMessage, []byte(text))
		each(func(c *chat) {
			c.writing.Lock()
			defer c.writing.Unlock()
			if !c.left {
				c.socket.WritePreparedMessage(message)
			}
		})
	}
}

func main() {
	milliseconds, _ := strconv.Atoi(os.Args[2])
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		panic(err)
	}
	http.HandleFunc("/ws/chat/", serve)
	go http.Serve(listener, nil)
	go beat(time.Duration(milliseconds) * time.Millisecond)
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	<-term
	for each(func(c *chat) { c.goodbye(websocket.CloseGoingAway) }) > 0 {
		time.Sleep(10 * time.Millisecond)
	}
}
