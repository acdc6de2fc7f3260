"""Django Channels on uvicorn, with uvloop and httptools, without compression and keepalive pings.

The in-memory layer is Channels' own for one process; a beat goes through it, as its documentation
broadcasts.
"""

import asyncio
import json
import sys
from datetime import datetime, timezone

import django
import uvicorn
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.urls import path

PORT, MILLISECONDS = int(sys.argv[1]), int(sys.argv[2])
LAYER = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
settings.configure(CHANNEL_LAYERS={"default": LAYER}, ALLOWED_HOSTS=["*"])
django.setup()
consumers = set()


def compact(value):
    return json.dumps(value, separators=(",", ":"))


class Chat(AsyncWebsocketConsumer):
    groups = ["all"]
    count = 0

    async def connect(self):
        await self.accept()
        consumers.add(self)

    async def disconnect(self, code):
        # ASGI tells of a Close when it has been answered: no bye fits in before it.
        consumers.discard(self)

    async def receive(self, text_data=None, bytes_data=None):
        self.count += 1
        await self.send(compact({"count": self.count}))

    async def beat(self, event):
        await self.send(event["text"])

    async def goodbye(self):
        await self.send(compact({"bye": True, "total": self.count}))
        await self.close(1001)


async def beats():
    layer = get_channel_layer()
    while True:
        await asyncio.sleep(MILLISECONDS / 1000)
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        text = compact({"ts": now.replace("+00:00", "Z")})
        await layer.group_send("all", {"type": "beat", "text": text})


class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        self.beats = asyncio.create_task(beats())

    async def shutdown(self, sockets=None):
        self.beats.cancel()
        await asyncio.gather(*(chat.goodbye() for chat in list(consumers)))
        await super().shutdown(sockets)


application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter([path("ws/chat/", Chat.as_asgi())]),
    }
)
Server(
    uvicorn.Config(
        application,
        port=PORT,
        backlog=4096,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        lifespan="off",
        log_level="error",
        access_log=False,
    )
).run()
