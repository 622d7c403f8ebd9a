def handler
  raise 'this call fails'
end
