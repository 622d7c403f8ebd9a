<?php

function handler($context)
{
    $response = $context['response']->withHeader('Content-Type', 'application/octet-stream');
    $response->getBody()->write((string) $context['request']->getBody());
    return $response;
}
