<?php

function handler($context)
{
    $request = $context['request'];
    $query = $request->getQueryParams();
    return [
        'method' => $request->getMethod(),
        'path' => $request->getPath(),
        'a' => $query['a'],
        'b' => $query['b'],
        'question' => $request->getHeaderLine('X-Question'),
    ];
}
