def handler(context)
  [200, { 'Content-Type' => 'application/octet-stream' }, [context.request.raw_body]]
end
