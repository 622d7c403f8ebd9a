import datetime

import humanize
from flask import request


def main():
    name = request.args.get("name", "world")
    since = datetime.timedelta(days=30)
    return f"Hello, {name}! You were here {humanize.naturaltime(since)}.\n"
