#!/bin/sh
# Answers with the body in capitals.
exec tr '[:lower:]' '[:upper:]'
