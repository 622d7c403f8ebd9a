from flask import jsonify, request


def main():
    return jsonify(
        method=request.method,
        path=request.path,
        a=request.args.get("a"),
        b=request.args.get("b"),
        question=request.headers.get("X-Question"),
    )
