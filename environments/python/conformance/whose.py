import flask


def main():
    return flask.__file__
