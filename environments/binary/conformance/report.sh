#!/bin/sh
value() { printf '%s' "$QUERY_STRING" | tr '&' '\n' | sed -n "s/^$1=//p" | sed 's/%20/ /g'; }
printf 'Content-Type: application/json\n\n'
printf '{"method":"%s","path":"%s","a":"%s","b":"%s","question":"%s"}' \
    "$REQUEST_METHOD" "$PATH_INFO" "$(value a)" "$(value b)" "$HTTP_X_QUESTION"
