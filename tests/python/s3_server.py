"""An S3 server on loopback that writes down what it is asked: prints its port and runs until its standard input ends.

Arguments: the file that each request becomes a line of (method, path, range), the access key that it knows, buckets.
"""

import logging
import os
import re
import sys
import threading

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

log_path, key, buckets = sys.argv[1], sys.argv[2], sys.argv[3:]
logging.getLogger("werkzeug").setLevel(logging.ERROR)
for name in list(os.environ):
    if name.startswith("AWS_"):
        del os.environ[name]
app = DomainDispatcherApplication(create_backend_app)
log = open(log_path, "a", buffering=1)
lock = threading.Lock()
UNKNOWN_KEY = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>InvalidAccessKeyId</Code><Message>The access key is not known.</Message></Error>"""


def watched(environ, start_response):
    with lock:
        log.write(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {environ.get('HTTP_RANGE', '-')}\n")
    used = re.search(r"Credential=([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
    if used is None or used.group(1) != key:
        start_response("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", str(len(UNKNOWN_KEY)))])
        return [UNKNOWN_KEY]
    return app(environ, start_response)


server = make_server("127.0.0.1", 0, watched, threaded=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
s3 = boto3.client(
    "s3",
    endpoint_url=f"http://127.0.0.1:{server.server_port}",
    region_name="us-east-1",
    aws_access_key_id=key,
    aws_secret_access_key="not checked",
)
for bucket in buckets:
    s3.create_bucket(Bucket=bucket)
print(server.server_port, flush=True)
sys.stdin.read()
