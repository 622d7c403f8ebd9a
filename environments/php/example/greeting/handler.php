<?php

use Psr\Log\LogLevel;

function handler($context)
{
    $name = $context['request']->getQueryParams()['name'] ?? 'world';
    $context['logger']->info('greeted', ['level' => LogLevel::INFO, 'name' => $name]);
    return "Hello, $name!\n";
}
