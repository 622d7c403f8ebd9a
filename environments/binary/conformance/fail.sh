#!/bin/sh
echo "this call fails"
exit 3
